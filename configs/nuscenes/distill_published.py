# For comparison: the diagrams of the code published with arXiv 2505.08101, squared lengths of short edges. They are
# often empty, which is logged as a warning; L_topo is then 0. Voxels are matched and the teacher is frozen all the same.
_base_ = ["distill_full.py"]
save_path = "exp/nuscenes/distill_published"
model = dict(losses=dict(topo=dict(_delete_=True, type="TopoLoss", loss_weight=0.1, published=True)))
