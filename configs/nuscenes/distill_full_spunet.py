# The paper's method with a sparse U-Net of the same size as student.
_base_ = [
    "../_base_/runtime.py",
    "../_base_/datasets/nuscenes.py",
    "../_base_/models/ptv3_teacher.py",
    "../_base_/models/spunet_student.py",
    "../_base_/schedules/onecycle_10e.py",
]
save_path = "exp/nuscenes/distill_full_spunet"
model = dict(
    type="Distiller",
    teacher=dict({{_base_.teacher}}, num_classes={{_base_.num_classes}}),
    student=dict({{_base_.student}}, num_classes={{_base_.num_classes}}),
    teacher_weight="exp/nuscenes/teacher/model/model_best.pth",
    losses=[
        dict(type="KLDLoss", loss_weight=0.3, temperature=1.0),
        dict(type="GradGuidedLoss", loss_weight=10.0, stage=-1, normalisation="minmax"),
        dict(type="TopoLoss", loss_weight=0.1, dims=(0, 1), distance="chamfer", max_points=256, stage=-1),
    ],
)
