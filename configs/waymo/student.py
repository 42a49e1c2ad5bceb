# The student on its own, with the segmentation losses only: the baseline of every distillation.
_base_ = [
    "../_base_/runtime.py",
    "../_base_/datasets/waymo.py",
    "../_base_/models/ptv3_student.py",
    "../_base_/schedules/onecycle_10e.py",
]
save_path = "exp/waymo/student"
model = dict({{_base_.student}}, num_classes={{_base_.num_classes}})
