# The teacher on nuScenes lidarseg: python tools/train.py --config configs/nuscenes/teacher.py
_base_ = [
    "../_base_/runtime.py",
    "../_base_/datasets/nuscenes.py",
    "../_base_/models/ptv3_teacher.py",
    "../_base_/schedules/onecycle_50e.py",
]
save_path = "exp/nuscenes/teacher"
model = dict({{_base_.teacher}}, num_classes={{_base_.num_classes}})
