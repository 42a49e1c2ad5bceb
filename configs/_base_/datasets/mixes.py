# Transforms that mix training scans with others; they stand before all others, see docs/datasets.md:
# data = dict(train=dict(transform=[*{{_base_.mixes}}, *{{_base_.data.train.transform}}]))
mixes = [
    dict(type="LaserMix", p=0.5),
    dict(type="PolarMix", p=0.5),
    dict(type="InstancePaste", p=0.5),
]
