# A student that two CPU cores can train in minutes: three stages, 0.19 M parameters.
_base_ = ["ptv3_student.py"]
student = dict(
    backbone_out_channels=32,
    backbone=dict(
        stride=(2, 2),
        enc_depths=(1, 1, 1),
        enc_channels=(16, 32, 32),
        enc_num_head=(1, 2, 2),
        enc_patch_size=(256, 256, 256),
        dec_depths=(1, 1),
        dec_channels=(32, 32),
        dec_num_head=(2, 2),
        dec_patch_size=(256, 256),
        bn_momentum=0.1,
        drop_path=0.0,
    ),
)
