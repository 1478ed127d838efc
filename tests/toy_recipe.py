"""A run of a second, on tests/toy_plugin.py."""

model = dict(
    type="retrieval.Embedder",
    backbone=dict(type="toy.Patches"),
    pool="mean",
    head=dict(type="core.Projection", dim=8),
    loss=dict(type="toy.Pull"),
)
train_dataloader = dict(
    dataset=dict(type="toy.Noise"),
    augment=dict(type="core.Augment"),
    sampler=dict(type="retrieval.PK", classes=4, per_class=2),
    num_workers=0,
)
val_dataloader = dict(dataset=dict(type="toy.Noise", seed=1), batch_size=16, num_workers=0)
val_evaluator = dict(type="toy.Nearest")
optim_wrapper = dict(optimizer=dict(type="core.AdamW", lr=1e-3, weight_decay=0.05), clip_grad=dict(max_norm=1.0))
param_scheduler = dict(type="core.WarmupCosine", warmup=2)
train_cfg = dict(max_steps=12, val_interval=6)
default_hooks = dict(logger=dict(interval=3), checkpoint=dict(interval=4))
