"""Probe a frozen DINOv3 on Food-101: linear heads, k-NN and logistic regression, from one pass over the images.

    python tools/train.py configs/dinov3_food101_probe.py

The features of every image are computed once. 39 linear heads, 13 learning rates by 3 ways to pool, are trained on them
together, each as if it were alone, and each three times (the protocol of DINOv2 and DINOv3). The validation images,
a tenth of the training images of each class, choose the head, the k of k-NN, the C of logistic regression, and the
method that predicts; the test set is evaluated once. `report.html` has the table, with intervals, and the curves.
Data as in `configs/dinov3_food101.py`. Another encoder: `model.backbone.name=vitl16`; another way to pool, more blocks:
`"model.inputs=['cls','cls+mean','cls+mean:4']"`.
"""
_base_ = ['dinov3_food101.py']
_repeats = 3
_batch = 256
model = dict(
    _delete_=True, type='classification.Probe',
    backbone=dict(type='dinov3.ViT', name='vitb16', tune=dict(mode='frozen')),
    inputs=['cls', 'cls+mean', 'cls:4'], repeats=_repeats)
train_dataloader = dict(
    batch_size=None, sampler=dict(type='core.Shuffled', batch_size=_batch, repeats=_repeats))
val_evaluator = [
    dict(type='classification.ProbeAccuracy', choose=True), dict(type='classification.KNN'), dict(type='classification.LogisticRegression')]
test_evaluator = [
    dict(type='classification.ProbeAccuracy'), dict(type='classification.KNN'), dict(type='classification.LogisticRegression'),
    dict(type='classification.Accuracy')]  # of the best method: by class, with confusions and wrong images
# the learning rate of a head is this one times its rate, DINOv3's rule for batches of other sizes than 256
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='core.SGD', lr=_batch / 256, momentum=0.9, weight_decay=0.0))
param_scheduler = dict(type='core.WarmupCosine', warmup=0.0)
train_cfg = dict(max_epochs=10, val_interval=10)
custom_hooks = [dict(type='classification.CompareProbes')]
