# The student, taught by the teacher's logits: L = L_seg + 0.3 · L_KLD.
_base_ = [
    "../_base_/runtime.py",
    "../_base_/datasets/synthetic.py",
    "../_base_/models/ptv3_teacher.py",
    "../_base_/models/ptv3_student.py",
    "../_base_/schedules/onecycle_10e.py",
]
save_path = "exp/synthetic/distill_kld"
model = dict(
    type="Distiller",
    teacher=dict({{_base_.teacher}}, num_classes={{_base_.num_classes}}),
    student=dict({{_base_.student}}, num_classes={{_base_.num_classes}}),
    teacher_weight="exp/synthetic/teacher/model/model_best.pth",
    losses=[dict(type="KLDLoss", loss_weight=0.3, temperature=1.0)],
)
