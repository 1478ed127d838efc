"""Align three image encoders with one text encoder on embedded data, as one: the loss compares their mean.

    python tools/train.py configs/demo/multi_vision_clip.py

The encoder of `configs/demo/dinov3_qwen3_frozen.py`, frozen and stored; the same one, which trains on; and a small one
from scratch. An embedding is the mean direction of the three. The loss compares that (`compare='fused'`), and each step
leaves some of them out (`tower_dropout`), so that each learns. The table has the recall of each alone.
"""
_base_ = ['dinov3_qwen3_frozen.py']
_head = dict(type='alignment.GatedMLP', dim=256, expansion=4.0, dropout=0.3)
model = dict(
    vision=dict(
        tuned=dict(
            backbone=dict(
                type='dinov3.ConvNeXt', name=None, size=32,
                arch=dict(hidden_sizes=[32, 64, 128, 192], depths=[1, 1, 2, 1], layer_scale_init_value=1.0),
                tune=dict(mode='full')),
            pool='cls', head=_head),
        small=dict(
            backbone=dict(
                type='dinov3.ConvNeXt', name=None, size=32,
                arch=dict(hidden_sizes=[16, 32, 64, 128], depths=[1, 1, 1, 1], layer_scale_init_value=1.0),
                tune=dict(mode='full')),
            pool='cls', head=_head)),
    compare='fused', tower_dropout=0.4)
load_parts = {'model.vision.image.backbone': 'model.backbone', 'model.vision.tuned.backbone': 'model.backbone'}
_recalls = [
    dict(type='alignment.Recall'),
    dict(type='alignment.Recall', image='image'),
    dict(type='alignment.Recall', image='tuned'),
    dict(type='alignment.Recall', image='small'),
]
val_evaluator = _recalls
test_evaluator = _recalls
optim_wrapper = dict(parts={'model.vision.tuned.backbone': dict(lr=5e-4)})
train_cfg = dict(max_steps=150, val_interval=150)
default_hooks = dict(logger=dict(interval=50), checkpoint=dict(interval=150))
