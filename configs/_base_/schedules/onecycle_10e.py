# The student's schedule (arXiv 2505.08101): 10 epochs of single scans, which Mix3D has nothing to mix with.
_base_ = ["onecycle_50e.py"]
epoch = 10
eval_epoch = 10
batch_size = 1
mix_prob = 0.0
