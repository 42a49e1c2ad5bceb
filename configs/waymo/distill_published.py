# For comparison: the diagrams of the code published with arXiv 2505.08101, squared lengths of short edges. They are
# often empty, which is logged as a warning; L_topo is then 0. Voxels are matched and the teacher is frozen all the same.
_base_ = ["distill_full.py"]
save_path = "exp/waymo/distill_published"
model = dict(
    losses=[
        dict(type="KLDLoss", loss_weight=0.3, temperature=1.0),
        dict(type="GradGuidedLoss", loss_weight=10.0, stage=-1, normalisation="minmax"),
        dict(type="TopoLoss", loss_weight=0.1, published=True),
    ],
)
