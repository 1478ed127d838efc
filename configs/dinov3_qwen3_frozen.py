"""Align frozen DINOv3 ViT-H+/16 and Qwen3-Embedding-4B by their heads alone, on stored features: try this first.

    python tools/train.py configs/dinov3_qwen3_frozen.py --data DIR

Data and weights as in `configs/dinov3_qwen3_clip.py`, also its table of other sizes. Every image and every caption is
encoded once, in bf16, and stored (5 KiB an image, 5 KiB a caption); after that an epoch takes seconds, so a batch can be
large: 8,192 pairs on one device, as SAIL has 32,768; with fewer images `train_dataloader.batch_size=512`. What trains is
a gated head of 1,024 on either side (SAIL: Zhang et al., "Assessing and Learning Alignment of Unimodal Vision and
Language Models", 2025), and the scale.

The images are stored without augmentation, since views of an image cost as much again each:
`features.views=4 "train_dataloader.augment=dict(type='core.Augment',scale=[0.5,1.0])"` stores four of each. To keep the
space of the text encoder, so that an index of texts stays valid: `model.text.text.head=None
model.vision.image.head.dim=2560`.
"""
_base_ = ['dinov3_qwen3_clip.py']
_tune = dict(_delete_=True, mode='frozen')
_head = dict(_delete_=True, type='alignment.GatedMLP', dim=1024)
model = dict(
    vision=dict(image=dict(backbone=dict(gradient_checkpointing=False, tune=_tune), head=_head)),
    text=dict(text=dict(
        backbone=dict(gradient_checkpointing=False, tune=_tune),
        head=dict(_delete_=True, type='alignment.GatedMLP', dim='{model.vision.image.head.dim}'))))
features = dict(dtype='bf16')
train_dataloader = dict(augment=None, batch_size=8192)
optim_wrapper = dict(optimizer=dict(lr=5e-4), parts=None, grad_cache=None)
param_scheduler = dict(warmup=0.05)
train_cfg = dict(max_epochs=50, val_interval=5)
