# The method of arXiv 2505.08101: L = L_seg + 0.3 · L_KLD + 10 · L_grad + 0.1 · L_topo, each loss under its name.
# A config adds teacher, student and the teacher's weights; `losses=dict(topo=None)` leaves a loss out.
distiller = dict(
    type="Distiller",
    losses=dict(
        kld=dict(type="KLDLoss", loss_weight=0.3, temperature=1.0),
        grad=dict(type="GradGuidedLoss", loss_weight=10.0, stage=-1, normalisation="minmax"),
        topo=dict(type="TopoLoss", loss_weight=0.1, dims=(0, 1), distance="chamfer", max_points=256, stage=-1),
    ),
)
