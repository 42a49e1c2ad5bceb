# A LitePT of 2.81 M parameters as student: LitePT-S with narrower stages, a head of 18 channels everywhere in attention.
student = dict(
    type="DefaultSegmentorV2",
    backbone_out_channels=48,
    backbone=dict(
        type="LitePT-v1",
        in_channels=4,
        order=("z", "z-trans", "hilbert", "hilbert-trans"),
        stride=(2, 2, 2, 2),
        enc_depths=(2, 2, 2, 5, 1),
        enc_channels=(24, 36, 72, 144, 288),
        enc_num_head=(2, 2, 4, 8, 16),
        enc_patch_size=(1024, 1024, 1024, 1024, 1024),
        enc_conv=(True, True, True, False, False),
        enc_attn=(False, False, False, True, True),
        enc_rope_freq=(100.0, 100.0, 100.0, 100.0, 100.0),
        dec_depths=(0, 0, 0, 0),
        dec_channels=(48, 48, 72, 144),
        drop_path=0.15,
        shuffle_orders=True,
    ),
    criteria=[dict(type="CrossEntropyLoss"), dict(type="LovaszLoss", mode="multiclass")],
)
