# LitePT-S as teacher, with a quarter of the parameters of PTv3.
_base_ = [
    "../_base_/runtime.py",
    "../_base_/datasets/semantic_kitti.py",
    "../_base_/models/litept_teacher.py",
    "../_base_/schedules/onecycle_50e.py",
]
save_path = "exp/semantic_kitti/litept_teacher"
model = dict({{_base_.teacher}}, num_classes={{_base_.num_classes}})
batch_size = 12
