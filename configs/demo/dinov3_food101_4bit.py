"""The 4-bit recipe on embedded data: adapters on an encoder whose weights are in 4 bits.

    python tools/train.py configs/demo/dinov3_food101_4bit.py            (needs bitsandbytes)

Data and encoder as in `configs/demo/dinov3_food101.py`.
"""
_base_ = ['dinov3_food101.py']
model = dict(
    backbone=dict(quantize=dict(bits=4, kind='nf4', nested=True), tune=dict(mode='lora', rank=8)))
features = None
train_dataloader = dict(
    augment=dict(type='core.Augment', scale=[0.9, 1.0], ratio=[0.9, 1.1], flip=0.0, color=0.4))
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='core.AdamW8bit', lr=1e-3, weight_decay=1e-4),
    parts={'model.head': dict(lr=1e-2)})
train_cfg = dict(max_epochs=20, val_interval=10)
