"""Align three image encoders with one text encoder on embedded data, each by a loss of its own.

    python tools/train.py configs/demo/multi_vision_clip.py

The encoder of `configs/demo/dinov3_qwen3_frozen.py`, the same one on patchesr images, pooled over patches, both frozen
and stored, and a small ConvNeXt that trains from scratch. An embedding is the mean direction of the three; the table
has the recall of each alone.
"""
_base_ = ['dinov3_qwen3_frozen.py']
_trunk = dict(
    type='dinov3.ConvNeXt', name=None, arch=dict(hidden_sizes=[32, 64, 128, 192], depths=[1, 1, 2, 1], layer_scale_init_value=1.0),
    tune=dict(mode='frozen'))
_head = dict(type='alignment.GatedMLP', dim=256, expansion=4.0)
model = dict(
    vision=dict(
        patches=dict(backbone=dict(size=32, **_trunk), pool='mean', head=_head),
        small=dict(
            backbone=dict(
                type='dinov3.ConvNeXt', name=None, size=32,
                arch=dict(hidden_sizes=[16, 32, 64, 128], depths=[1, 1, 1, 1], layer_scale_init_value=1.0),
                tune=dict(mode='full')),
            pool='cls', head=dict(type='core.Projection', dim=256))))
load_parts = {'model.vision.image.backbone': 'model.backbone', 'model.vision.patches.backbone': 'model.backbone'}
_recalls = [
    dict(type='alignment.Recall'), dict(type='alignment.Recall', image='image'), dict(type='alignment.Recall', image='patches'),
    dict(type='alignment.Recall', image='small')]
val_evaluator = _recalls
test_evaluator = _recalls
train_cfg = dict(max_steps=200, val_interval=200)
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=200))
