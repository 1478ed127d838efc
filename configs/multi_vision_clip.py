"""Align three sizes of DINOv3 with one Qwen3-Embedding-4B, all frozen and stored, each by a loss of its own.

    python tools/train.py configs/multi_vision_clip.py --data DIR

Data and weights as in `configs/dinov3_qwen3_frozen.py`. An embedding of an image is the mean direction of the three
towers; the test has the recall of each alone beside it. `model.compare=fused` has one loss for the means instead;
`model.tower_dropout=0.2` leaves towers out of steps, so that each learns to do without the others.
"""
_base_ = ['dinov3_qwen3_frozen.py']


def _tower(name):
    return dict(
        backbone=dict(type='dinov3.ViT', name=name, size=224, tune=dict(mode='frozen')),
        pool='cls+mean', head=dict(type='alignment.GatedMLP', dim=1024))


_names = ['vitb16', 'vitl16', 'vith16plus']
model = dict(
    vision=dict(_delete_=True, **{name: _tower(name) for name in _names}),
    text=dict(text=dict(head=dict(dim=1024))))
_recalls = [dict(type='alignment.Recall', image=name) for name in _names]
_probes = [dict(type='alignment.Probe', image=name) for name in _names]
test_evaluator = [dict(type='alignment.Recall', intervals=1000), *_recalls, *_probes]
arguments = dict(_delete_=True, data='train_dataloader.dataset.root')
