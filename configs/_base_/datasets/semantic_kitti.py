# SemanticKITTI in its official layout below data_root: 19 classes.
_base_ = ["lidar.py"]
data_root = "data/semantic_kitti"
num_classes = 19
_scans = dict(type="SemanticKITTIDataset", data_root=data_root)
data = dict(
    train=dict(_scans, split="train"),
    val=dict(_scans, split="val"),
    # every point in some fragment: at most a few share a voxel
    test=dict(_scans, split="val", transform=[]),
)
