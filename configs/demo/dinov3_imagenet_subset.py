"""The recipe for a subset of ImageNet on embedded data: all letters, from a part of their pictures, frozen encoder.

    python tools/train.py configs/demo/dinov3_imagenet_subset.py

Drawn once into the layout of ImageNet-1k (train/<wnid>/, val/, labels.txt), the test pictures in faces that no training
picture has. The encoder, trained on other letters, is made on first use.
"""
_base_ = ['dinov3_food101.py']
_root = 'data/glyphs_imagenet'
_data = dict(_delete_=True, type='datasets.ImageNet', root=_root)
prepare = [dict(dataset='glyphs.Glyphs', out=_root, layout='imagenet')]
train_dataloader = dict(dataset=dict(**_data, split='train', ratio=0.75))
val_dataloader = dict(dataset=dict(**_data, split='val'))
test_dataloader = dict(dataset=dict(**_data, split='test'))
train_cfg = dict(max_epochs=30, val_interval=10)
