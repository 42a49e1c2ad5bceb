# A sparse U-Net student with 2.78 M parameters, the size of the PTv3 student: its encoder depths, stem (16) and deepest
# width (128), half of SpUNet's block depth, and the widths between set in steps of 16 until the sum was 2.78 M.
student = dict(
    type="DefaultSegmentorV2",
    backbone_out_channels=32,
    backbone=dict(
        type="SpUNet-v1m1",
        in_channels=4,
        num_classes=0,
        base_channels=16,
        channels=(16, 32, 48, 128, 64, 48, 32, 32),
        layers=(1, 1, 1, 2, 1, 1, 1, 1),
    ),
    criteria=[dict(type="CrossEntropyLoss"), dict(type="LovaszLoss", mode="multiclass")],
)
