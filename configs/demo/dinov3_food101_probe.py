"""The probe of Food-101 on embedded data: linear heads, k-NN and logistic regression on letters, five images each.

    python tools/train.py configs/demo/dinov3_food101_probe.py

Data and encoder as in `configs/demo/dinov3_food101.py`; what is trained and compared as in
`configs/dinov3_food101_probe.py`.
"""
_base_ = ['dinov3_food101.py']
_repeats = 3
model = dict(
    _delete_=True, type='classification.Probe',
    backbone=dict(
        type='dinov3.ConvNeXt', name=None, size=32,
        arch=dict(hidden_sizes=[32, 64, 128, 192], depths=[1, 1, 2, 1], layer_scale_init_value=1.0)),
    inputs=['cls', 'cls+mean'], rates=[0.01, 0.02, 0.05, 0.1, 0.2], repeats=_repeats)
_others = [dict(type='classification.KNN', ks=[1, 5, 10]), dict(type='classification.LogisticRegression', cs=[10.0, 1000.0, 100000.0])]
train_dataloader = dict(batch_size=None, sampler=dict(type='core.Shuffled', batch_size=64, repeats=_repeats))
val_evaluator = [dict(type='classification.ProbeAccuracy', choose=True), *_others]
test_evaluator = [dict(type='classification.ProbeAccuracy'), *_others, dict(type='classification.Accuracy')]
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='core.SGD', lr=64 / 256, momentum=0.9, weight_decay=0.0))
param_scheduler = dict(type='core.WarmupCosine', warmup=0.0)
train_cfg = dict(max_epochs=30, val_interval=30)
default_hooks = dict(checkpoint=dict(interval=30))
custom_hooks = [dict(type='classification.CompareProbes')]
