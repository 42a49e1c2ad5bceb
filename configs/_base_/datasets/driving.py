# SemanticKITTI, nuScenes and Waymo below data_root in the 10 classes of the label space "driving", all three through
# the transforms of lidar.py; each epoch goes through every scan of the three.
_base_ = ["lidar.py"]
data_root = "data"
num_classes = 10
_joint = dict(_delete_=True, type="ConcatDataset", data_root=data_root, label_space="driving")
_kitti = dict(type="SemanticKITTIDataset", data_root="semantic_kitti")
_nuscenes = dict(type="NuScenesDataset", data_root="nuscenes")
_waymo = dict(type="WaymoDataset", data_root="waymo")
_train = {{_base_.data.train}}
_val = {{_base_.data.val}}
_test = {{_base_.data.test}}
data = dict(
    train=dict(
        _joint,
        datasets=[
            dict(_kitti, split="train", **_train),
            dict(_nuscenes, split="train", **_train),
            dict(_waymo, split="training", **_train),
        ],
    ),
    val=dict(
        _joint,
        datasets=[
            dict(_kitti, split="val", **_val),
            dict(_nuscenes, split="val", **_val),
            dict(_waymo, split="validation", **_val),
        ],
    ),
    test=dict(
        _joint,
        datasets=[
            dict(_kitti, split="val", **_test),
            dict(_nuscenes, split="val", **_test),
            dict(_waymo, split="validation", **_test),
        ],
    ),
)
