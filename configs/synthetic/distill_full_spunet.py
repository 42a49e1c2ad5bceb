# The paper's method with a sparse U-Net of the same size as student.
_base_ = [
    "../_base_/runtime.py",
    "../_base_/datasets/synthetic.py",
    "../_base_/models/ptv3_teacher.py",
    "../_base_/models/spunet_student.py",
    "../_base_/methods/distillation.py",
    "../_base_/schedules/onecycle_10e.py",
]
save_path = "exp/synthetic/distill_full_spunet"
model = dict(
    {{_base_.distiller}},
    teacher=dict({{_base_.teacher}}, num_classes={{_base_.num_classes}}),
    student=dict({{_base_.student}}, num_classes={{_base_.num_classes}}),
    teacher_weight="exp/synthetic/teacher/model/model_best.pth",
)
