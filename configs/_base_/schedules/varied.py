# One learning rate for all, few evaluations: for training on simulated scans, where train.max_iter says how long.
epoch = 100
eval_epoch = 2
batch_size = 8
mix_prob = 0.0
optimizer = dict(type="AdamW", lr=0.004, weight_decay=0.02)
scheduler = dict(
    type="OneCycleLR",
    max_lr=0.004,
    pct_start=0.1,
    anneal_strategy="cos",
    div_factor=10.0,
    final_div_factor=100.0,
)
