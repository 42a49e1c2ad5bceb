# Simulated streets seen by many scanners, for a network that shall know scanners it has not seen. Voxels of 0.1 m:
# pointcept simulate --varied --out data/varied --scenes train=300 val=10 --frames 3
_base_ = ["semantic_kitti.py"]
data_root = "data/varied"
_voxels = dict(type="GridSample", grid_size=0.1, mode="train", return_grid_coord=True)
_keys = ("coord", "strength", "segment")
_collect = dict(type="Collect", feat_keys=("coord", "strength"))
_copy = dict(type="Copy", keys_dict=dict(segment="origin_segment"))
_lean = dict(type="RandomRotate", angle=[-0.02, 0.02], center=[0, 0, 0], p=0.5)
data = dict(
    train=dict(
        sequences="available",
        transform=[
            dict(type="InstancePaste", p=0.5, scans=300),
            dict(type="RandomRotate", angle=[-1, 1], axis="z", center=[0, 0, 0], p=1),
            dict(_lean, axis="x"),
            dict(_lean, axis="y"),
            dict(type="RandomScale", scale=[0.9, 1.1]),
            dict(type="RandomShift", shift=((0, 0), (0, 0), (-0.2, 0.2))),
            dict(type="RandomFlip", p=0.5),
            dict(type="RandomJitter", sigma=0.01, clip=0.04),
            dict(type="RandomDropout", dropout_ratio=0.4, dropout_application_ratio=0.3),
            dict(type="RandomStrength", gain=[0.6, 1.4], power=[0.6, 1.6], sigma=0.05, drop=0.15),
            dict(_voxels, keys=_keys),
            dict(type="ToTensor"),
            dict(_collect, keys=("coord", "grid_coord", "segment")),
        ],
    ),
    val=dict(
        transform=[
            _copy,
            dict(_voxels, keys=_keys, return_inverse=True),
            dict(type="ToTensor"),
            dict(_collect, keys=("coord", "grid_coord", "segment", "origin_segment", "inverse")),
        ],
    ),
    # one point of each voxel stands for all: a scan takes one pass for each of the two views
    test=dict(
        transform=[_copy, dict(_voxels, keys=_keys, return_grid_coord=False, return_inverse=True)],
        test_cfg=dict(
            _delete_=True,
            voxelize=dict(_voxels, mode="test", keys=("coord", "strength")),
            crop=None,
            post_transform=[dict(type="ToTensor"), dict(_collect, keys=("coord", "grid_coord", "index"))],
            aug_transform=[[], [dict(type="RandomFlip", p=1)]],
        ),
    ),
)
