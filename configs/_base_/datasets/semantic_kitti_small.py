# SemanticKITTI for two CPU cores: voxels of 0.4 m, training on crops of 6000, sequences 00 and 01, two test views.
_base_ = ["semantic_kitti.py"]
_voxels = dict(type="GridSample", grid_size=0.4, mode="train", return_grid_coord=True)
_keys = ("coord", "strength", "segment")
_collect = dict(type="Collect", feat_keys=("coord", "strength"))
data = dict(
    train=dict(
        sequences=[0, 1],
        transform=[
            dict(type="RandomRotate", angle=[-1, 1], axis="z", center=[0, 0, 0], p=0.5),
            dict(type="RandomScale", scale=[0.9, 1.1]),
            dict(type="RandomFlip", p=0.5),
            dict(_voxels, keys=_keys),
            dict(type="SphereCrop", point_max=6000),
            dict(type="ToTensor"),
            dict(_collect, keys=("coord", "grid_coord", "segment")),
        ],
    ),
    val=dict(
        transform=[
            dict(type="Copy", keys_dict=dict(segment="origin_segment")),
            dict(_voxels, keys=_keys, return_inverse=True),
            dict(type="ToTensor"),
            dict(_collect, keys=("coord", "grid_coord", "segment", "origin_segment", "inverse")),
        ],
    ),
    test=dict(
        transform=[
            dict(type="Copy", keys_dict=dict(segment="origin_segment")),
            dict(_voxels, keys=_keys, return_grid_coord=False, return_inverse=True),
        ],
        test_cfg=dict(
            _delete_=True,
            voxelize=dict(_voxels, mode="test", keys=("coord", "strength")),
            crop=None,
            post_transform=[dict(type="ToTensor"), dict(_collect, keys=("coord", "grid_coord", "index"))],
            aug_transform=[[], [dict(type="RandomFlip", p=1)]],
        ),
    ),
)
