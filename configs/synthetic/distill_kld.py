# The student, taught by the teacher's logits: L = L_seg + 0.3 · L_KLD.
_base_ = ["distill_full.py"]
save_path = "exp/synthetic/distill_kld"
model = dict(losses=dict(grad=None, topo=None))
