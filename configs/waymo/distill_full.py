# The paper's method (arXiv 2505.08101): L = L_seg + 0.3 · L_KLD + 10 · L_grad + 0.1 · L_topo.
_base_ = [
    "../_base_/runtime.py",
    "../_base_/datasets/waymo.py",
    "../_base_/models/ptv3_teacher.py",
    "../_base_/models/ptv3_student.py",
    "../_base_/methods/distillation.py",
    "../_base_/schedules/onecycle_10e.py",
]
save_path = "exp/waymo/distill_full"
model = dict(
    {{_base_.distiller}},
    teacher=dict({{_base_.teacher}}, num_classes={{_base_.num_classes}}),
    student=dict({{_base_.student}}, num_classes={{_base_.num_classes}}),
    teacher_weight="exp/waymo/teacher/model/model_best.pth",
)
