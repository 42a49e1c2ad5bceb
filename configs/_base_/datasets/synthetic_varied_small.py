# The same for one CPU core: voxels of 0.2 m, training on crops of 12 000.
_base_ = ["synthetic_varied.py"]


def _coarse(steps):
    return [{**step, "grid_size": 0.2} if step["type"] == "GridSample" else step for step in steps]


*_augment, _tensor, _collect = _coarse({{_base_.data.train.transform}})
data = dict(
    train=dict(transform=[*_augment, dict(type="SphereCrop", point_max=12000), _tensor, _collect]),
    val=dict(transform=_coarse({{_base_.data.val.transform}})),
    test=dict(transform=_coarse({{_base_.data.test.transform}}), test_cfg=dict(voxelize=dict(grid_size=0.2))),
)
