# A small LitePT on its own, with the segmentation losses only.
_base_ = [
    "../_base_/runtime.py",
    "../_base_/datasets/waymo.py",
    "../_base_/models/litept_student.py",
    "../_base_/schedules/onecycle_10e.py",
]
save_path = "exp/waymo/litept_student"
model = dict({{_base_.student}}, num_classes={{_base_.num_classes}})
