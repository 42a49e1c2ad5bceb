# Scene cross-validation over the 90 labelled scans: ten frames of each of nine sequences.
save_path = "exp/studies/semantic_kitti"
# By the labels alone: of each class as much as possible is left to learn from, whichever fold is left out.
folds = [[0, 1, 2], [3, 8], [4, 10], [5, 9]]
seeds = [0, 1, 2]
baseline = ["seg"]
options = {"train.max_iter": 2000, "batch_size": 4, "mix_prob": 0.8}

_kitti = "../semantic_kitti"
# 2.69 of the student's 2.78 M parameters lie in blocks, which learn at a tenth of the rate in the paper's configs.
_fast = {"scheduler.max_lr": [0.002, 0.002], "param_dicts.0.lr": 0.002}
rows = dict(
    teacher=dict(config=f"{_kitti}/teacher.py", seeds=[0, 1]),
    seg=dict(config=f"{_kitti}/student.py"),
    kld=dict(config=f"{_kitti}/distill_kld.py", teacher="teacher"),
    full=dict(config=f"{_kitti}/distill_full.py", teacher="teacher"),
    seg_fast=dict(config=f"{_kitti}/student.py", options=_fast),
    seg_polar=dict(
        config=f"{_kitti}/student_mixed.py",
        options={**_fast, "data.train.transform.0.p": 0.0, "data.train.transform.2.p": 0.0},
    ),
    seg_mixed=dict(config=f"{_kitti}/student_mixed.py", options=_fast),
    kld_fast=dict(config=f"{_kitti}/distill_kld.py", teacher="teacher", options=_fast),
    full_fast=dict(config=f"{_kitti}/distill_full.py", teacher="teacher", options=_fast),
)
