# Rows of a study of SemanticKITTI: distillations that may help, each with the student's faster schedule.
# 2.69 of the student's 2.78 M parameters lie in blocks, which learn at a tenth of the rate in the paper's configs.
fast = {"scheduler.max_lr": [0.002, 0.002], "param_dicts.0.lr": 0.002}
_kld = dict(type="KLDLoss", loss_weight=0.3)
_losses = dict(
    kld_1=[dict(type="KLDLoss", loss_weight=1.0)],
    kld_3=[dict(type="KLDLoss", loss_weight=3.0)],
    kld_T4=[dict(type="KLDLoss", loss_weight=0.3, temperature=4.0)],
    kld_std=[dict(type="KLDLoss", loss_weight=1.0, temperature=2.0, standardise=True)],
    kld_bal=[dict(type="KLDLoss", loss_weight=0.3, balanced=True)],
    kld_sure=[dict(type="KLDLoss", loss_weight=1.0, sure=0.8, right=True)],
    dkd=[dict(type="DKDLoss", loss_weight=0.3, alpha=1.0, beta=2.0)],
    grad_1=[_kld, dict(type="GradGuidedLoss", loss_weight=1.0)],
    grad_grows=[_kld, dict(type="GradGuidedLoss", loss_weight=dict(start=0.0, end=10.0, begin=0.2))],
    topo_10=[_kld, dict(type="TopoLoss", loss_weight=10.0)],
    topo_100_h0=[_kld, dict(type="TopoLoss", loss_weight=100.0, dims=(0,))],
    topo_10_w=[_kld, dict(type="TopoLoss", loss_weight=10.0, dims=(0,), distance="wasserstein")],
    rtd=[_kld, dict(type="RTDLiteLoss", loss_weight=10.0)],
    affinity=[_kld, dict(type="AffinityLoss", loss_weight=1.0)],
)
_row = dict(config="../semantic_kitti/distill_kld.py", teacher="teacher")
candidates = {name: dict(_row, options={**fast, "model.losses": losses}) for name, losses in _losses.items()}
candidates["kld_2teach"] = dict(_row, teacher_seed=[0, 1], options=fast)
# With the real scans of ../shared without labels as sequence 30; they are of sequence 08: --leave-out 8.
candidates["unlabelled"] = dict(
    config="../semantic_kitti/distill_unlabelled.py",
    teacher="teacher",
    train_scenes="data.train.datasets.0.sequences",
    options={**fast, "data.train.datasets.1.sequences": [30]},
)
