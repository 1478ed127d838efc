"""Fine-tune DINOv3 ViT-H+/16 on Food-101 with its weights in 4 bits and LoRA on top, for a GPU with little memory.

    python tools/train.py configs/dinov3_food101_4bit.py            (needs bitsandbytes: pip install bitsandbytes)

Linear layers inside the blocks hold 4-bit weights (nf4, nested scales); norms, patch embedding, adapters and the head
stay in higher precision. The run first measures and prints how far the features are from those in full precision. 4
bits save memory, not time: if frozen features are enough, `configs/dinov3_food101.py` caches them and is far faster.
The data are those of that recipe.
"""
_base_ = ['dinov3_food101.py']
model = dict(
    backbone=dict(
        name='vith16plus', quantize=dict(bits=4, kind='nf4', nested=True), tune=dict(mode='lora', rank=16)))
features = None
train_dataloader = dict(batch_size=32, augment=dict(type='core.Augment'))
val_dataloader = dict(batch_size=64)
test_dataloader = dict(batch_size=64)
test_evaluator = [dict(type='classification.Accuracy', intervals=1000), dict(type='classification.CalibrationError')]
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='core.AdamW8bit', lr=1e-4, weight_decay=0.01), parts={'model.head': dict(lr=1e-3)},
    clip_grad=dict(max_norm=1.0))
train_cfg = dict(max_epochs=3)
evaluate_before = False
