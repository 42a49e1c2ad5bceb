# A sparse U-Net that one CPU core can train in an hour: four stages, 0.88 M parameters.
_base_ = ["spunet_student.py"]
student = dict(
    backbone_out_channels=24,
    backbone=dict(channels=(16, 32, 48, 64, 48, 32, 24, 24), layers=(1, 1, 1, 1, 1, 1, 1, 1)),
)
