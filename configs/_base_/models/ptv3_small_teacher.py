# A teacher that two CPU cores can train in minutes: three stages, 1.25 M parameters.
_base_ = ["ptv3_teacher.py"]
teacher = dict(
    backbone_out_channels=48,
    backbone=dict(
        stride=(2, 2),
        enc_depths=(1, 1, 2),
        enc_channels=(32, 64, 96),
        enc_num_head=(2, 4, 6),
        enc_patch_size=(256, 256, 256),
        dec_depths=(1, 1),
        dec_channels=(48, 64),
        dec_num_head=(3, 4),
        dec_patch_size=(256, 256),
        bn_momentum=0.1,
        drop_path=0.1,
    ),
)
