# The student on its own, trained on mixed scans: LaserMix, PolarMix and InstancePaste before the usual transforms.
_base_ = [
    "../_base_/runtime.py",
    "../_base_/datasets/semantic_kitti.py",
    "../_base_/datasets/mixes.py",
    "../_base_/models/ptv3_student.py",
    "../_base_/schedules/onecycle_10e.py",
]
save_path = "exp/semantic_kitti/student_mixed"
model = dict({{_base_.student}}, num_classes={{_base_.num_classes}})
data = dict(train=dict(transform=[*{{_base_.mixes}}, *{{_base_.data.train.transform}}]))
