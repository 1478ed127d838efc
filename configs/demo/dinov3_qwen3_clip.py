"""Fine-tune an image encoder together with a text encoder on embedded data: letters and their names.

    python tools/train.py configs/demo/dinov3_qwen3_clip.py

As `configs/demo/dinov3_qwen3_frozen.py`, with an image encoder that trains too, at a lower learning rate.
"""
_base_ = ['dinov3_qwen3_frozen.py']
model = dict(vision=dict(image=dict(backbone=dict(tune=dict(mode='full')))))
features = None
train_dataloader = dict(
    augment=dict(type='core.Augment', scale=[0.8, 1.0], ratio=[0.9, 1.1], flip=0.0, rotate=10.0))
optim_wrapper = dict(parts={'model.vision.image.backbone': dict(lr=5e-4)})
train_cfg = dict(max_steps=150, val_interval=150)
default_hooks = dict(logger=dict(interval=50), checkpoint=dict(interval=150))
