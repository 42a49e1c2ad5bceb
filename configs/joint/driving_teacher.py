# The teacher on SemanticKITTI, nuScenes and Waymo together, in their 10 common classes.
_base_ = [
    "../_base_/runtime.py",
    "../_base_/datasets/driving.py",
    "../_base_/models/ptv3_teacher.py",
    "../_base_/schedules/onecycle_50e.py",
]
save_path = "exp/joint/driving_teacher"
model = dict({{_base_.teacher}}, num_classes={{_base_.num_classes}})
