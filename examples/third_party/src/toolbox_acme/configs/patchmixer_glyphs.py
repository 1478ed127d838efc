"""Train PatchMixer from scratch to tell letters apart.      python tools/train.py acme:patchmixer_glyphs"""
model = dict(
    type='retrieval.Embedder',
    backbone=dict(type='acme.PatchMixer', dim=64, depth=2, patch=4, size=32),
    pool='mean',
    head=dict(type='core.Projection', dim=64),
    loss=dict(type='acme.Angular', scale=10.0))
train_dataloader = dict(
    dataset=dict(type='glyphs.Glyphs', split='train'),
    augment=dict(type='core.Augment', scale=[0.5, 1.0], flip=0.0, rotate=15.0),
    sampler=dict(type='retrieval.PK', classes=32, per_class=4), num_workers=2)
val_dataloader = dict(dataset=dict(type='glyphs.Glyphs', split='val'), batch_size=256)
val_evaluator = [dict(type='retrieval.Recall', ks=[1, 10])]
test_dataloader = dict(dataset=dict(type='glyphs.Glyphs', split='test'), batch_size=256)
test_evaluator = val_evaluator
optim_wrapper = dict(optimizer=dict(type='core.AdamW', lr=1e-3, weight_decay=0.05), clip_grad=dict(max_norm=1.0))
param_scheduler = dict(type='core.WarmupCosine', warmup=0.05)
train_cfg = dict(max_steps=300, val_interval=150)
randomness = dict(seed=0)
