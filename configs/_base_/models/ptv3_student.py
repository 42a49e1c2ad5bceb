# The student of arXiv 2505.08101: Point Transformer V3 with 2.78 M parameters.
student = dict(
    type="DefaultSegmentorV2",
    backbone_out_channels=64,
    backbone=dict(
        type="PT-v3m1",
        in_channels=4,
        order=("z", "z-trans", "hilbert", "hilbert-trans"),
        stride=(2, 2, 2, 2),
        enc_depths=(1, 1, 1, 2, 1),
        enc_channels=(16, 16, 32, 64, 128),
        enc_num_head=(1, 1, 2, 4, 8),
        enc_patch_size=(1024, 1024, 1024, 1024, 1024),
        dec_depths=(1, 1, 1, 1),
        dec_channels=(64, 64, 128, 128),
        dec_num_head=(2, 2, 4, 8),
        dec_patch_size=(1024, 1024, 1024, 1024),
        drop_path=0.15,
        shuffle_orders=True,
        recompute="linear",  # less than half the memory, see docs/performance.md
    ),
    criteria=[dict(type="CrossEntropyLoss"), dict(type="LovaszLoss", mode="multiclass")],
)
