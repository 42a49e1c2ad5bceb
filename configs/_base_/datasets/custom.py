# Your own scans below data_root, as docs/your-data.md says: names and all else that is yours go into your config.
_base_ = ["lidar.py"]
data_root = "data/custom"
_scans = dict(type="CustomDataset", data_root=data_root, names=["ground", "vegetation", "building", "object"])
data = dict(
    train=dict(_scans, split="train"),
    val=dict(_scans, split="val"),
    test=dict(_scans, split="val"),
)
