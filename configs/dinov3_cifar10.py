"""Classify CIFAR-10: a linear head on a frozen DINOv3 ViT-B/16, whose features are computed once and stored.

    python tools/train.py configs/dinov3_cifar10.py

Data: `uoft-cs/cifar10` from the Hugging Face Hub or its cache; a tenth of the training images of each class is held out
to choose the checkpoint. For the binary version of the authors, unpacked, set `train_dataloader.dataset` (and val,
test) to `dict(type='datasets.CIFAR10', root='data/cifar-10-batches-bin', split=...)`. The images of 32 pixels are
enlarged to the 224 pixels that the encoder takes.
"""
_base_ = ['dinov3_food101.py']
train_dataloader = dict(dataset=dict(name='uoft-cs/cifar10'))
