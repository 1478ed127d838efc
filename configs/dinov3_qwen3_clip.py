"""Align DINOv3 ViT-H+/16 with Qwen3-Embedding-4B on your own images with captions: adapters on both, for 40 GB.

    python tools/train.py configs/dinov3_qwen3_clip.py --data DIR

Data: DIR/train.jsonl, DIR/val.jsonl and DIR/test.jsonl, whose lines name an image and its captions;
`python tools/prepare_data.py records` makes them of COCO, Flickr30k or a folder with a .txt beside each image.
Weights: facebook/dinov3-vith16plus-pretrain-lvd1689m is gated; without access the command prints the steps.

Other sizes, with the widths of the shared space that suit them:

    --model vits16        --cfg-options model.vision.image.head.dim=512  model.text.text.backbone.name=0.6b
    --model vitb16        --cfg-options model.vision.image.head.dim=768  model.text.text.backbone.name=0.6b
    --model vitl16        --cfg-options model.vision.image.head.dim=1024
    --model convnext-small --cfg-options model.vision.image.backbone.type=dinov3.ConvNeXt model.vision.image.head.dim=768

A batch of 256 is computed in chunks of 8 (GradCache): the negatives are those of the whole batch, the memory that of a
chunk. Both encoders train adapters (LoRA); docs/jobs/align.md has what fits 24, 40 and 80 GB, and tuning all weights. If
the frozen features are enough, `configs/dinov3_qwen3_frozen.py` stores them once and is far faster: try it first. Beside
the numbers after training, the test gives those of a linear map between the frozen features ("probe/").
"""
_base_ = ['_base_/runtime.py']
_data = dict(type='datasets.Records', mode='i2t')
_tune = dict(mode='lora', rank=16)
model = dict(
    type='alignment.DualEncoder',
    vision=dict(image=dict(
        backbone=dict(type='dinov3.ViT', name='vith16plus', size=224, gradient_checkpointing=True, tune=_tune),
        pool='cls+mean', head=dict(type='core.Projection', dim=1024))),
    text=dict(text=dict(
        backbone=dict(type='qwen3.Embedding', name='4b', max_length=512, gradient_checkpointing=True, tune=_tune),
        pool='last', head=dict(type='core.Projection', dim='{model.vision.image.head.dim}'))),
    loss=dict(type='losses.CLIP'))
train_dataloader = dict(
    dataset=dict(root='data/captions', path='{train_dataloader.dataset.root}/train.jsonl', **_data),
    augment=dict(type='core.Augment', scale=[0.5, 1.0]),
    batch_size=256, num_workers=8)
val_dataloader = dict(
    dataset=dict(root='{train_dataloader.dataset.root}', path='{train_dataloader.dataset.root}/val.jsonl', **_data),
    batch_size=64, num_workers=4)
val_evaluator = [dict(type='alignment.Recall')]
test_dataloader = dict(
    dataset=dict(root='{train_dataloader.dataset.root}', path='{train_dataloader.dataset.root}/test.jsonl', **_data),
    batch_size=64, num_workers=4)
test_evaluator = [dict(type='alignment.Recall', intervals=1000), dict(type='alignment.Probe')]
optim_wrapper = dict(
    optimizer=dict(type='core.AdamW', lr=5e-5, weight_decay=0.01),
    parts={'model.vision.image.head': dict(lr=5e-4), 'model.text.text.head': dict(lr=5e-4)},
    grad_cache=dict(chunk_size=8),
    clip_grad=dict(max_norm=1.0),
    precision='bf16')
param_scheduler = dict(type='core.WarmupCosine', warmup=500)
train_cfg = dict(max_epochs=10, val_interval=1)
custom_hooks = [dict(type='alignment.ChanceWatch')]
arguments = dict(data='train_dataloader.dataset.root', model='model.vision.image.backbone.name')
