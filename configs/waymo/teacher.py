# The teacher on the Waymo Open Dataset: python tools/train.py --config configs/waymo/teacher.py
_base_ = [
    "../_base_/runtime.py",
    "../_base_/datasets/waymo.py",
    "../_base_/models/ptv3_teacher.py",
    "../_base_/schedules/onecycle_50e.py",
]
save_path = "exp/waymo/teacher"
model = dict({{_base_.teacher}}, num_classes={{_base_.num_classes}})
