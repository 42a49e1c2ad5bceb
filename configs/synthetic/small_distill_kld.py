# A small student taught by the small teacher on the embedded data set.
_base_ = ["small_distill_full.py"]
save_path = "exp/synthetic/small_distill_kld"
model = dict(losses=dict(grad=None, topo=None))
