# The ablation without topology: L = L_seg + 0.3 · L_KLD + 10 · L_grad.
_base_ = ["distill_full.py"]
save_path = "exp/waymo/distill_grad"
model = dict(losses=dict(topo=None))
