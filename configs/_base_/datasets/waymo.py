# Waymo frames as preprocess_waymo.py writes them: 22 classes. Far or stray heights are clamped before all else.
_base_ = ["lidar.py"]
data_root = "data/waymo"
num_classes = 22
_scans = dict(type="WaymoDataset", data_root=data_root)
_clip = dict(type="PointClip", point_cloud_range=(-75.2, -75.2, -4, 75.2, 75.2, 2))
_turns = [[dict(type="RandomRotateTargetAngle", angle=[a], axis="z", center=[0, 0, 0], p=1)] for a in (0, 0.5, 1, 1.5)]
data = dict(
    train=dict(_scans, split="training", transform=[_clip, *{{_base_.data.train.transform}}]),
    val=dict(_scans, split="validation", transform=[_clip, *{{_base_.data.val.transform}}]),
    test=dict(
        _scans,
        split="validation",
        transform=[_clip, *{{_base_.data.test.transform}}],
        test_cfg=dict(aug_transform=_turns),
    ),
)
