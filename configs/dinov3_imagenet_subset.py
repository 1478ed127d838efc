"""Classify ImageNet-1k from 1 % of its training images: a linear head on a frozen DINOv3 ViT-B/16.

    python tools/train.py configs/dinov3_imagenet_subset.py

Data: `ILSVRC/imagenet-1k` from the Hugging Face Hub (gated: accept its terms there, and log in) or its cache. The
official validation set is the test set here, since that of the test set has no labels; a tenth of the training images
of each class is held out to choose the checkpoint. 1 % is about 11 of each class, the same ones in every run. For a
folder with train/<wnid>/, val/ and labels.txt, set `train_dataloader.dataset` (and val, test) to
`dict(type='datasets.ImageNet', root='data/imagenet', split=..., ratio=0.01)`.
"""
_base_ = ['dinov3_food101.py']
_parts = dict(train='train', test='validation')
train_dataloader = dict(dataset=dict(name='ILSVRC/imagenet-1k', ratio=0.01, parts=_parts))
val_dataloader = dict(dataset=dict(parts=_parts))
test_dataloader = dict(dataset=dict(parts=_parts))
train_cfg = dict(max_epochs=50)
