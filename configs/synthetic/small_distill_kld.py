# A small student taught by the small teacher on the embedded data set.
_base_ = [
    "../_base_/runtime_cpu.py",
    "../_base_/datasets/synthetic_small.py",
    "../_base_/models/ptv3_small_teacher.py",
    "../_base_/models/ptv3_small_student.py",
    "../_base_/schedules/smoke.py",
]
save_path = "exp/synthetic/small_distill_kld"
model = dict(
    type="Distiller",
    teacher=dict({{_base_.teacher}}, num_classes={{_base_.num_classes}}),
    student=dict({{_base_.student}}, num_classes={{_base_.num_classes}}),
    teacher_weight="exp/synthetic/small_teacher/model/model_best.pth",
    losses=[dict(type="KLDLoss", loss_weight=0.3, temperature=1.0)],
)
