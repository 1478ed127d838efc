"""Fine-tune DINOv3 ViT-B/16 with LoRA for product retrieval on Stanford Online Products.

    python tools/train.py configs/dinov3_sop.py

Data: `python tools/prepare_data.py sop --out data/stanford_online_products` checks the folder, or says how to get it.
Weights: facebook/dinov3-vitb16-pretrain-lvd1689m is gated; without access the command prints the steps. A folder on
disk works too: `--cfg-options model.backbone.name=weights/vitb16`. Other sizes: `model.backbone.name=vits16`.
The best checkpoint is chosen on classes held out from the training set; the test set is seen before and after only.
"""
_base_ = ['_base_/runtime.py']
_root = 'data/stanford_online_products'
model = dict(
    type='core.Embedder',
    backbone=dict(type='dinov3.ViT', name='vitb16', tune=dict(mode='lora', rank=16)),
    pool='cls',
    head=dict(type='core.Projection', dim=512),
    loss=dict(type='losses.SupCon', temperature=0.1))
train_dataloader = dict(
    dataset=dict(type='datasets.SOP', root=_root, split='train'),
    augment=dict(type='core.RetrievalAugment'),
    sampler=dict(type='core.PK', classes=32, per_class=4),
    num_workers=4)
val_dataloader = dict(dataset=dict(type='datasets.SOP', root=_root, split='val'), batch_size=256, num_workers=4)
val_evaluator = [dict(type='core.RetrievalRecall', ks=[1, 10, 100, 1000])]
test_dataloader = dict(dataset=dict(type='datasets.SOP', root=_root, split='test'), batch_size=256, num_workers=4)
test_evaluator = val_evaluator
optim_wrapper = dict(
    optimizer=dict(type='core.AdamW', lr=1e-4, weight_decay=0.05),
    parts={'model.head': dict(lr=1e-3)},
    accumulative_counts=1,
    clip_grad=dict(max_norm=1.0),
    precision='bf16')
param_scheduler = dict(type='core.WarmupCosine', warmup=0.05)
train_cfg = dict(max_epochs=20)
custom_hooks = [dict(type='core.EarlyStop', metric='recall@1', patience=5)]
