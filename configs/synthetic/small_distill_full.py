# A small student taught by the small teacher with every term of the paper: the second step of scripts/demo.sh.
_base_ = ["small_distill_kld.py"]
save_path = "exp/synthetic/small_distill_full"
model = dict(
    losses=[
        dict(type="KLDLoss", loss_weight=0.3, temperature=1.0),
        dict(type="GradGuidedLoss", loss_weight=10.0, stage=-1, normalisation="minmax"),
        dict(type="TopoLoss", loss_weight=0.1, dims=(0, 1), distance="chamfer", max_points=128, stage=-1),
    ],
)
