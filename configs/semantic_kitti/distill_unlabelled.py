# The student learns from the raw test sequences, too: of their scans the teacher alone says what they show.
_base_ = ["distill_kld.py"]
save_path = "exp/semantic_kitti/distill_unlabelled"
_labelled = dict({{_base_.data.train}}, data_root="")
data = dict(
    train=dict(
        _delete_=True,
        type="ConcatDataset",
        data_root={{_base_.data_root}},
        datasets=[_labelled, dict(_labelled, split="test", unlabelled=True)],
    )
)
