# A trained teacher goes on with your own scans and classes: --options weight=PATH, see docs/your-data.md.
_base_ = [
    "../_base_/runtime.py",
    "../_base_/datasets/custom.py",
    "../_base_/models/ptv3_teacher.py",
    "../_base_/schedules/onecycle_10e.py",
]
save_path = "exp/custom/teacher_finetune"
weight = "exp/semantic_kitti/teacher/model/model_best.pth"
model = dict({{_base_.teacher}}, num_classes=4)
batch_size = 4
_hooks = {{_base_.hooks}}
hooks = [dict(type="CheckpointLoader", strict=False), *_hooks[1:]]  # the head is new
param_dicts = [dict(keyword="backbone", lr=0.0002)]  # a tenth of what the new head learns with
