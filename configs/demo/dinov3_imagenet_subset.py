"""The recipe for a subset of ImageNet on embedded data: all letters, from a part of their images, frozen encoder.

    python tools/train.py configs/demo/dinov3_imagenet_subset.py

The letters are drawn once into the layout of ImageNet-1k (train/<wnid>/, val/, labels.txt). The test images use fonts
that no training image uses. The encoder is trained on other letters, on first use.
"""
_base_ = ['dinov3_food101.py']
_root = 'data/glyphs_imagenet'
_data = dict(_delete_=True, type='datasets.ImageNet', root=_root)
prepare = [dict(dataset='glyphs.Glyphs', out=_root, layout='imagenet')]
train_dataloader = dict(dataset=dict(**_data, split='train', ratio=0.75))
val_dataloader = dict(dataset=dict(**_data, split='val'))
test_dataloader = dict(dataset=dict(**_data, split='test'))
train_cfg = dict(max_epochs=30, val_interval=10)
