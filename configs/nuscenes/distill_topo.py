# The ablation without gradient guidance: L = L_seg + 0.3 · L_KLD + 0.1 · L_topo.
_base_ = ["distill_full.py"]
save_path = "exp/nuscenes/distill_topo"
model = dict(
    losses=[
        dict(type="KLDLoss", loss_weight=0.3, temperature=1.0),
        dict(type="TopoLoss", loss_weight=0.1, dims=(0, 1), distance="chamfer", max_points=256, stage=-1),
    ],
)
