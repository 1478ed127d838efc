"""Align three image encoders with one text encoder on embedded data, each by a loss of its own.

    python tools/train.py configs/demo/multi_vision_clip.py

Each begins as the encoder of `configs/demo/dinov3_qwen3_frozen.py`: one stays frozen, and its features are stored; of
one the last block trains, and of one all of it. An embedding is the mean direction of the three; the table has the
recall of each alone.
"""
_base_ = ['dinov3_qwen3_frozen.py']
_trunk = dict(
    type='dinov3.ConvNeXt', name=None, size=32,
    arch=dict(hidden_sizes=[32, 64, 128, 192], depths=[1, 1, 2, 1], layer_scale_init_value=1.0))
_head = dict(type='alignment.GatedMLP', dim=256, expansion=4.0, dropout=0.3)
model = dict(
    vision=dict(
        last=dict(backbone=dict(tune=dict(mode='last', last=1), **_trunk), pool='cls', head=_head),
        full=dict(backbone=dict(tune=dict(mode='full'), **_trunk), pool='cls', head=_head)))
load_parts = {f'model.vision.{name}.backbone': 'model.backbone' for name in ('image', 'last', 'full')}
_recalls = [
    dict(type='alignment.Recall'),
    dict(type='alignment.Recall', image='image'),
    dict(type='alignment.Recall', image='last'),
    dict(type='alignment.Recall', image='full'),
]
val_evaluator = _recalls
test_evaluator = _recalls
optim_wrapper = dict(parts={'model.vision.last.backbone': dict(lr=5e-4), 'model.vision.full.backbone': dict(lr=5e-4)})
train_cfg = dict(max_steps=150, val_interval=150)
default_hooks = dict(logger=dict(interval=50), checkpoint=dict(interval=150))
