# The ablation without topology: L = L_seg + 0.3 · L_KLD + 10 · L_grad.
_base_ = ["distill_full.py"]
save_path = "exp/waymo/distill_grad"
model = dict(
    losses=[
        dict(type="KLDLoss", loss_weight=0.3, temperature=1.0),
        dict(type="GradGuidedLoss", loss_weight=10.0, stage=-1, normalisation="minmax"),
    ],
)
