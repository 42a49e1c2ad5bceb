# The teacher's schedule (arXiv 2505.08101): 50 epochs, blocks at a tenth of the learning rate.
epoch = 50
eval_epoch = 50
batch_size = 4
mix_prob = 0.8
optimizer = dict(type="AdamW", lr=0.002, weight_decay=0.005)
scheduler = dict(
    type="OneCycleLR",
    max_lr=[0.002, 0.0002],
    pct_start=0.04,
    anneal_strategy="cos",
    div_factor=10.0,
    final_div_factor=100.0,
)
param_dicts = [dict(keyword="block", lr=0.0002)]
