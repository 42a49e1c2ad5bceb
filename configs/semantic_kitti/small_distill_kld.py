# A small student taught by the small teacher's logits, for two CPU cores.
_base_ = ["small_distill_full.py"]
save_path = "exp/semantic_kitti/small_distill_kld"
model = dict(losses=dict(grad=None, topo=None))
