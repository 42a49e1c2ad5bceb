# What all LiDAR data sets share: voxels of 0.05 m, augmentation, ten views of each scan in tests. No data set itself.
_voxels = dict(type="GridSample", grid_size=0.05, mode="train", return_grid_coord=True)
_keys = ("coord", "strength", "segment")
_features = dict(type="Collect", feat_keys=("coord", "strength"))
_copy = dict(type="Copy", keys_dict=dict(segment="origin_segment"))
_flip = dict(type="RandomFlip", p=1)
_scales = [[dict(type="RandomScale", scale=[s, s])] for s in (0.9, 0.95, 1, 1.05, 1.1)]
data = dict(
    train=dict(
        transform=[
            dict(type="RandomRotate", angle=[-1, 1], axis="z", center=[0, 0, 0], p=0.5),
            dict(type="RandomScale", scale=[0.9, 1.1]),
            dict(type="RandomFlip", p=0.5),
            dict(type="RandomJitter", sigma=0.005, clip=0.02),
            dict(_voxels, keys=_keys),
            dict(type="ToTensor"),
            dict(_features, keys=("coord", "grid_coord", "segment")),
        ],
    ),
    # one pass over the voxels; predictions are mapped back to all points
    val=dict(
        transform=[
            _copy,
            dict(_voxels, keys=_keys, return_inverse=True),
            dict(type="ToTensor"),
            dict(_features, keys=("coord", "grid_coord", "segment", "origin_segment", "inverse")),
        ],
    ),
    # points closer than 0.025 m share their prediction: rays without a return can fall into one voxel by the hundred
    test=dict(
        transform=[_copy, dict(_voxels, grid_size=0.025, keys=_keys, return_grid_coord=False, return_inverse=True)],
        test_mode=True,
        test_cfg=dict(
            voxelize=dict(_voxels, mode="test", keys=("coord", "strength")),
            crop=None,
            post_transform=[dict(type="ToTensor"), dict(_features, keys=("coord", "grid_coord", "index"))],
            aug_transform=[[*view, *extra] for extra in ([], [_flip]) for view in _scales],
        ),
    ),
)
