# The student that predicts out of the box, as one CPU core trains it in half an hour: docs/shipped-student.md.
_base_ = [
    "../_base_/runtime_cpu.py",
    "../_base_/datasets/synthetic_varied_small.py",
    "../_base_/models/spunet_small_student.py",
    "../_base_/schedules/varied.py",
]
save_path = "exp/synthetic/small_shipped_student"
model = dict({{_base_.student}}, num_classes={{_base_.num_classes}})
batch_size = 2
clip_grad = 1.0
train = dict(max_iter=1500)
