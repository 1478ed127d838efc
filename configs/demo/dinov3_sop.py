"""The retrieval recipe on embedded data: a small DINOv3-architecture ConvNeXt learns to tell letters apart.

    make demo          (or: python tools/train.py configs/demo/dinov3_sop.py)

It trains on Latin and Cyrillic letters and is evaluated on Greek, Armenian and Georgian ones that it has never seen.
The images are drawn once from fonts, into the layout of Stanford Online Products, and read by the loader of that.

The settings suit a small net that is trained from scratch: InfoNCE and a smooth recall, no head, a learning rate of
2e-3 without averaging, rotation and crops without color jitter. They were chosen on letters held out of the training,
on letters of other scripts and on drawings by strokes, never on the test letters; docs/benchmarks.md has the numbers.
"""
_base_ = ['../_base_/runtime.py']
_root = 'data/glyphs_sop'
prepare = [dict(dataset='glyphs.Glyphs', out=_root, layout='sop')]
model = dict(
    type='retrieval.Embedder',
    backbone=dict(
        type='dinov3.ConvNeXt', name=None, size=32,
        arch=dict(hidden_sizes=[32, 64, 128, 192], depths=[1, 1, 2, 1], layer_scale_init_value=1.0),
        tune=dict(mode='full')),
    pool='cls',
    loss=dict(
        type='losses.Sum',
        losses=[dict(type='losses.InfoNCE', temperature=0.05), dict(type='losses.RecallAtK')]))
train_dataloader = dict(
    dataset=dict(type='datasets.SOP', root=_root, split='train'),
    augment=dict(type='core.Augment', scale=[0.7, 1.0], ratio=[0.9, 1.1], flip=0.0, rotate=15.0),
    sampler=dict(type='retrieval.PK', classes=32, per_class=4),
    num_workers=2)
val_dataloader = dict(dataset=dict(type='datasets.SOP', root=_root, split='val'), batch_size=256, num_workers=0)
val_evaluator = [dict(type='retrieval.Recall', ks=[1, 10, 100])]
test_dataloader = dict(dataset=dict(type='datasets.SOP', root=_root, split='test'), batch_size=256, num_workers=2)
test_evaluator = [dict(type='retrieval.Recall', ks=[1, 10, 100, 1000])]
optim_wrapper = dict(
    optimizer=dict(type='core.AdamW', lr=2e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=1.0),
    precision='fp32')
param_scheduler = dict(type='core.WarmupCosine', warmup=0.05)
evaluate_pixels = True
train_cfg = dict(max_steps=1500, val_interval=750)
default_hooks = dict(logger=dict(interval=50), checkpoint=dict(interval=750))
