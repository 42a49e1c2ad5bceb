# nuScenes lidarseg below data_root/raw with info files in data_root/info: 16 classes, single scans.
_base_ = ["lidar.py"]
data_root = "data/nuscenes"
num_classes = 16
_scans = dict(type="NuScenesDataset", data_root=data_root)
data = dict(
    train=dict(_scans, split="train"),
    val=dict(_scans, split="val"),
    test=dict(_scans, split="val"),
)
