"""The recipe for CIFAR-10 on embedded data: ten letters, written into its binary files, on a frozen encoder.

    python tools/train.py configs/demo/dinov3_cifar10.py

The test images use fonts that no training image uses. The encoder is trained on other letters, on first use.
"""
_base_ = ['dinov3_food101.py']
_root = 'data/glyphs_cifar10'
_data = dict(_delete_=True, type='datasets.CIFAR10', root=_root)
prepare = [dict(dataset='glyphs.Glyphs', out=_root, layout='cifar10')]
train_dataloader = dict(dataset=dict(**_data, split='train'))
val_dataloader = dict(dataset=dict(**_data, split='val'))
test_dataloader = dict(dataset=dict(**_data, split='test'))
train_cfg = dict(max_epochs=20, val_interval=5)
default_hooks = dict(checkpoint=dict(interval=5))
