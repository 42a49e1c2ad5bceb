# The ablation without gradient guidance: L = L_seg + 0.3 · L_KLD + 0.1 · L_topo.
_base_ = ["distill_full.py"]
save_path = "exp/nuscenes/distill_topo"
model = dict(losses=dict(grad=None))
