"""The published baseline to beat: DINOv3 ViT-B/16, LoRA on queries and values, InfoNCE over pairs, no augmentation.

    python tools/train.py configs/dinov3_sop_baseline.py

Settings as published with Recall@1 65.32 -> 83.13 on Stanford Online Products: 128 pairs a batch in plain shuffled
order, the positive a random other image of the product, same-label pairs as positives too (cross-view SupCon at
temperature 0.05), rank 16, alpha 32, dropout 0.05, AdamW at 1e-4 with cosine decay after 10 % warm-up, 20 epochs,
all training classes, CLS features without a head. `configs/dinov3_sop.py` is the recipe that we recommend.
"""
_base_ = ['_base_/runtime.py']
model = dict(
    type='retrieval.Embedder',
    backbone=dict(
        type='dinov3.ViT', name='vitb16',
        tune=dict(mode='lora', rank=16, alpha=32, dropout=0.05, targets=['q_proj', 'v_proj'])),
    pool='cls',
    loss=dict(type='losses.SupCon', temperature=0.05),
    cross_view=True)
train_dataloader = dict(
    dataset=dict(type='datasets.SOP', root='data/stanford_online_products', split='trainval'),
    sampler=dict(type='retrieval.Pairs', batch_size=128),
    num_workers=4)
test_dataloader = dict(
    dataset=dict(type='datasets.SOP', root='{train_dataloader.dataset.root}', split='test'), batch_size=256, num_workers=4)
test_evaluator = [dict(type='retrieval.Recall', ks=[1, 10, 100, 1000])]
optim_wrapper = dict(
    optimizer=dict(type='core.AdamW', lr=1e-4, weight_decay=0.01),
    clip_grad=dict(max_norm=1.0),
    precision='bf16')
param_scheduler = dict(type='core.WarmupCosine', warmup=0.1)
train_cfg = dict(max_epochs=20)
arguments = dict(data='train_dataloader.dataset.root', model='model.backbone.name')  # what --data and --model set
