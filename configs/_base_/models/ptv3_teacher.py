# Point Transformer V3 as published: 46.16 M parameters.
teacher = dict(
    type="DefaultSegmentorV2",
    backbone_out_channels=64,
    backbone=dict(
        type="PT-v3m1",
        in_channels=4,
        order=("z", "z-trans", "hilbert", "hilbert-trans"),
        stride=(2, 2, 2, 2),
        enc_depths=(2, 2, 2, 6, 2),
        enc_channels=(32, 64, 128, 256, 512),
        enc_num_head=(2, 4, 8, 16, 32),
        enc_patch_size=(1024, 1024, 1024, 1024, 1024),
        dec_depths=(2, 2, 2, 2),
        dec_channels=(64, 64, 128, 256),
        dec_num_head=(4, 4, 8, 16),
        dec_patch_size=(1024, 1024, 1024, 1024),
        drop_path=0.3,
        shuffle_orders=True,
        recompute="linear",  # less than half the memory, see docs/performance.md
    ),
    criteria=[dict(type="CrossEntropyLoss"), dict(type="LovaszLoss", mode="multiclass")],
)
