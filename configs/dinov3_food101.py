"""Classify Food-101: a linear head on a frozen DINOv3 ViT-B/16, whose features are computed once and stored.

    python tools/train.py configs/dinov3_food101.py

Data: `ethz/food101`, downloaded from the Hugging Face Hub (5 GB) or taken from its cache. Its official validation set
is the test set here; a tenth of the training images of each class is held out to choose the checkpoint. A tenth of the
training data for a first look: `train_dataloader.dataset.ratio=0.1`. For the archive of the authors, unpacked, set
`train_dataloader.dataset` (and val, test) to `dict(type='datasets.Food101', root='data/food-101', split=...)`.
Other ways to train: `model.backbone.tune.mode=lora` (or last, full) with `features=None`, and a learning rate of 1e-4.
"""
_base_ = ['_base_/runtime.py']
_loader = dict(batch_size=256, num_workers=4)
model = dict(
    type='classification.Classifier',
    backbone=dict(type='dinov3.ViT', name='vitb16', tune=dict(mode='frozen')),
    pool='cls+mean',
    head=dict(type='classification.Linear'),
    loss=dict(type='losses.CrossEntropy'))
features = dict(dtype='fp16')
train_dataloader = dict(
    dataset=dict(type='datasets.HF', name='ethz/food101', split='train', val_share=0.1, seed=42), **_loader)
# a text in braces is the value of another key: what is held out follows the training data
val_dataloader = dict(
    dataset=dict(
        type='datasets.HF', name='{train_dataloader.dataset.name}', split='val',
        val_share='{train_dataloader.dataset.val_share}', seed='{train_dataloader.dataset.seed}'),
    **_loader)
val_evaluator = [dict(type='classification.Accuracy')]
test_dataloader = dict(
    dataset=dict(type='datasets.HF', name='{train_dataloader.dataset.name}', split='test'), **_loader)
test_evaluator = [dict(type='classification.Accuracy', intervals=1000), dict(type='classification.CalibrationError'), dict(type='classification.KNN')]
optim_wrapper = dict(optimizer=dict(type='core.AdamW', lr=1e-3, weight_decay=1e-4), precision='bf16')
param_scheduler = dict(type='core.WarmupCosine', warmup=0.05)
train_cfg = dict(max_epochs=20)
arguments = dict(data='train_dataloader.dataset.name', model='model.backbone.name')  # what --data and --model set
