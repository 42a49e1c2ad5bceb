# A small student on its own on the embedded data set, for two CPU cores.
_base_ = [
    "../_base_/runtime_cpu.py",
    "../_base_/datasets/synthetic_small.py",
    "../_base_/models/ptv3_small_student.py",
    "../_base_/schedules/smoke.py",
]
save_path = "exp/synthetic/small_student"
model = dict({{_base_.student}}, num_classes={{_base_.num_classes}})
