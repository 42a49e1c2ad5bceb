# SemanticKITTI in its official layout below data_root: 19 classes, voxels of 0.05 m.
data_root = "data/semantic_kitti"
num_classes = 19
_voxels = dict(type="GridSample", grid_size=0.05, mode="train", return_grid_coord=True)
_keys = ("coord", "strength", "segment")
_to_batch = [
    dict(type="ToTensor"),
    dict(type="Collect", keys=("coord", "grid_coord", "segment"), feat_keys=("coord", "strength")),
]
_flip = dict(type="RandomFlip", p=1)
_scales = [[dict(type="RandomScale", scale=[s, s])] for s in (0.9, 0.95, 1, 1.05, 1.1)]
data = dict(
    train=dict(
        type="SemanticKITTIDataset",
        split="train",
        data_root=data_root,
        transform=[
            dict(type="RandomRotate", angle=[-1, 1], axis="z", center=[0, 0, 0], p=0.5),
            dict(type="RandomScale", scale=[0.9, 1.1]),
            dict(type="RandomFlip", p=0.5),
            dict(type="RandomJitter", sigma=0.005, clip=0.02),
            dict(_voxels, keys=_keys),
            *_to_batch,
        ],
    ),
    # one pass over the voxels; predictions are mapped back to all points
    val=dict(
        type="SemanticKITTIDataset",
        split="val",
        data_root=data_root,
        transform=[
            dict(type="Copy", keys_dict=dict(segment="origin_segment")),
            dict(_voxels, keys=_keys, return_inverse=True),
            dict(type="ToTensor"),
            dict(
                type="Collect",
                keys=("coord", "grid_coord", "segment", "origin_segment", "inverse"),
                feat_keys=("coord", "strength"),
            ),
        ],
    ),
    # every point in some fragment, ten views of each scan
    test=dict(
        type="SemanticKITTIDataset",
        split="val",
        data_root=data_root,
        transform=[],
        test_mode=True,
        test_cfg=dict(
            voxelize=dict(_voxels, mode="test", keys=("coord", "strength")),
            crop=None,
            post_transform=[
                dict(type="ToTensor"),
                dict(type="Collect", keys=("coord", "grid_coord", "index"), feat_keys=("coord", "strength")),
            ],
            aug_transform=[[*view, *extra] for extra in ([], [_flip]) for view in _scales],
        ),
    ),
)
