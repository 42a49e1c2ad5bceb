# A small student taught by the small teacher's logits, for two CPU cores.
_base_ = [
    "../_base_/runtime_cpu.py",
    "../_base_/datasets/semantic_kitti_small.py",
    "../_base_/models/ptv3_small_teacher.py",
    "../_base_/models/ptv3_small_student.py",
    "../_base_/schedules/smoke.py",
]
save_path = "exp/semantic_kitti/small_distill_kld"
model = dict(
    type="Distiller",
    teacher=dict({{_base_.teacher}}, num_classes={{_base_.num_classes}}),
    student=dict({{_base_.student}}, num_classes={{_base_.num_classes}}),
    teacher_weight="exp/semantic_kitti/small_teacher/model/model_best.pth",
    losses=[dict(type="KLDLoss", loss_weight=0.3, temperature=1.0)],
)
