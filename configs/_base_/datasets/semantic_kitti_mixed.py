# SemanticKITTI, whose training scans are mixed with others before all else: set the probabilities "p" to taste.
_base_ = ["semantic_kitti.py"]
_mixes = [dict(type="LaserMix", p=0.3), dict(type="PolarMix", p=0.5), dict(type="InstancePaste", p=0.5)]
data = dict(train=dict(transform=[*_mixes, *{{_base_.data.train.transform}}]))
