# The embedded data set: tools/generate_synthetic.py --out data/synthetic --scenes train=10 val=1 --frames 100
_base_ = ["semantic_kitti.py"]
data_root = "data/synthetic"
data = dict(train=dict(sequences="available"))
