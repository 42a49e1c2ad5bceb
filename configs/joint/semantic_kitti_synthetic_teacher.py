# The teacher on SemanticKITTI and a simulated street.
_base_ = [
    "../_base_/runtime.py",
    "../_base_/datasets/semantic_kitti_synthetic.py",
    "../_base_/models/ptv3_teacher.py",
    "../_base_/schedules/onecycle_50e.py",
]
save_path = "exp/joint/semantic_kitti_synthetic_teacher"
model = dict({{_base_.teacher}}, num_classes={{_base_.num_classes}})
