# The method of arXiv 2505.08101 on SemanticKITTI and a simulated street.
_base_ = [
    "../_base_/runtime.py",
    "../_base_/datasets/semantic_kitti_synthetic.py",
    "../_base_/models/ptv3_teacher.py",
    "../_base_/models/ptv3_student.py",
    "../_base_/methods/distillation.py",
    "../_base_/schedules/onecycle_10e.py",
]
save_path = "exp/joint/semantic_kitti_synthetic_distill_full"
model = dict(
    {{_base_.distiller}},
    teacher=dict({{_base_.teacher}}, num_classes={{_base_.num_classes}}),
    student=dict({{_base_.student}}, num_classes={{_base_.num_classes}}),
    teacher_weight="exp/joint/semantic_kitti_synthetic_teacher/model/model_best.pth",
)
