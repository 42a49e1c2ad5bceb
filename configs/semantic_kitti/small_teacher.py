# A small teacher for two CPU cores: the first step of scripts/demo.sh with DATA.
_base_ = [
    "../_base_/runtime_cpu.py",
    "../_base_/datasets/semantic_kitti_small.py",
    "../_base_/models/ptv3_small_teacher.py",
    "../_base_/schedules/smoke.py",
]
save_path = "exp/semantic_kitti/small_teacher"
model = dict({{_base_.teacher}}, num_classes={{_base_.num_classes}})
