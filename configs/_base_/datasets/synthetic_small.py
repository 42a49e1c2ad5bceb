# The embedded data set for two CPU cores: tools/generate_synthetic.py --out data/synthetic
_base_ = ["semantic_kitti_small.py"]
data_root = "data/synthetic"
data = dict(train=dict(sequences="available"))
