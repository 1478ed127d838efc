"""Fine-tune DINOv3 ViT-S/16 with LoRA on your own images: one folder a class, a few hundred images will do.

    python tools/train.py configs/dinov3_folder.py --data DIR

Data: DIR/<class>/*.jpg, at any depth below a class, with 6 classes or more. A fifth of the classes is held out for the
test and a tenth to choose the best checkpoint, at least 2 each, since retrieval is evaluated on classes never seen. For
fewer classes, or a split of your own, make DIR/train, DIR/val and DIR/test with class folders in each.
Then: `python tools/embed.py work_dirs/dinov3_folder DIR embeddings.npz` embeds images with the trained model.
A small net that starts from random weights (`model.backbone.name=None` with an `arch`) needs other settings: those of
configs/demo/dinov3_sop.py, in which the loss reads the features without a head, and 1,500 steps instead of 400.
A larger encoder: `--model vitb16`. Thousands of images: `train_dataloader.sampler.batch_size=64` and
`train_cfg.max_steps=2000`.
"""
_base_ = ['_base_/runtime.py']
_loader = dict(batch_size=64, num_workers=2)
model = dict(
    type='retrieval.Embedder',
    backbone=dict(type='dinov3.ViT', name='vits16', tune=dict(mode='lora', rank=8)),
    pool='cls',
    loss=dict(type='losses.SupCon', temperature=0.05),
    cross_view=True)
train_dataloader = dict(
    dataset=dict(type='datasets.ImageFolder', root='data/pictures', split='train'),
    augment=dict(type='core.Augment'),
    sampler=dict(type='retrieval.Pairs', batch_size=16),
    num_workers=2)
# a text in braces is the value of another key: all three follow the one root
val_dataloader = dict(
    dataset=dict(type='datasets.ImageFolder', root='{train_dataloader.dataset.root}', split='val'), **_loader)
val_evaluator = [dict(type='retrieval.Recall', ks=[1, 5, 10])]
test_dataloader = dict(
    dataset=dict(type='datasets.ImageFolder', root='{train_dataloader.dataset.root}', split='test'), **_loader)
test_evaluator = '{val_evaluator}'
optim_wrapper = dict(
    optimizer=dict(type='core.AdamW', lr=1e-4, weight_decay=0.01),
    clip_grad=dict(max_norm=1.0),
    precision='bf16')
param_scheduler = dict(type='core.WarmupCosine', warmup=0.1)
train_cfg = dict(max_steps=400, val_interval=40)  # an epoch of few images is few steps
default_hooks = dict(checkpoint=dict(interval=40))
custom_hooks = [dict(type='core.EarlyStop', metric='recall@1', patience=5)]
arguments = dict(data='train_dataloader.dataset.root', model='model.backbone.name')  # what --data and --model set
