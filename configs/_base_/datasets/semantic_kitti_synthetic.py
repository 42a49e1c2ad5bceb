# SemanticKITTI and the embedded data set below data_root, the same 19 classes; SemanticKITTI judges.
_base_ = ["semantic_kitti.py"]
data_root = "data"
_joint = dict(_delete_=True, type="ConcatDataset", data_root=data_root)
_kitti = dict(data_root="semantic_kitti")
data = dict(
    train=dict(
        _joint,
        datasets=[
            dict({{_base_.data.train}}, **_kitti),
            dict({{_base_.data.train}}, data_root="synthetic", sequences="available"),
        ],
    ),
    val=dict(_joint, datasets=[dict({{_base_.data.val}}, **_kitti)]),
    test=dict(_joint, datasets=[dict({{_base_.data.test}}, **_kitti)]),
)
