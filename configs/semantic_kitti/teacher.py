# The teacher on SemanticKITTI: python tools/train.py --config configs/semantic_kitti/teacher.py
_base_ = [
    "../_base_/runtime.py",
    "../_base_/datasets/semantic_kitti.py",
    "../_base_/models/ptv3_teacher.py",
    "../_base_/schedules/onecycle_50e.py",
]
save_path = "exp/semantic_kitti/teacher"
model = dict({{_base_.teacher}}, num_classes={{_base_.num_classes}})
