# Two CPU cores, about two minutes.
_base_ = ["onecycle_50e.py"]
epoch = 10
eval_epoch = 1
batch_size = 2
mix_prob = 0.0
scheduler = dict(max_lr=[0.004, 0.002])
optimizer = dict(lr=0.004)
param_dicts = [dict(keyword="block", lr=0.002)]
