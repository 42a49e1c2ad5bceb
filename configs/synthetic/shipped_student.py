# The student that predicts out of the box, as one H100 trains it in about ten minutes: docs/shipped-student.md.
_base_ = [
    "../_base_/runtime.py",
    "../_base_/datasets/synthetic_varied.py",
    "../_base_/models/ptv3_student.py",
    "../_base_/schedules/varied.py",
]
save_path = "exp/synthetic/shipped_student"
model = dict({{_base_.student}}, num_classes={{_base_.num_classes}})
clip_grad = 1.0
train = dict(max_iter=3000)
