# A student on your own scans: a config of yours stands on this one and has names, data_root and model.num_classes.
_base_ = [
    "../_base_/runtime.py",
    "../_base_/datasets/custom.py",
    "../_base_/models/ptv3_student.py",
    "../_base_/schedules/onecycle_50e.py",
]
save_path = "exp/custom/student"
model = dict({{_base_.student}}, num_classes=4)
