# The teacher on the embedded data set: python tools/train.py --config configs/synthetic/teacher.py
_base_ = [
    "../_base_/runtime.py",
    "../_base_/datasets/synthetic.py",
    "../_base_/models/ptv3_teacher.py",
    "../_base_/schedules/onecycle_50e.py",
]
save_path = "exp/synthetic/teacher"
model = dict({{_base_.teacher}}, num_classes={{_base_.num_classes}})
