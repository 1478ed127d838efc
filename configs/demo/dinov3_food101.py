"""The recipe for Food-101 on embedded data: letters from five images each, on a frozen encoder.

    python tools/train.py configs/demo/dinov3_food101.py

Greek, Armenian and Georgian letters, drawn once into the layout of Food-101 and read by the loader that reads it; the
test images use fonts that no training image uses. The encoder is trained on other letters, on first use.
"""
_base_ = ['../_base_/runtime.py', '../_base_/glyph_trunk.py']
_root = 'data/glyphs_food101'
prepare = [dict(dataset='glyphs.Glyphs', out=_root, layout='food101')]
model = dict(
    type='classification.Classifier', pool='cls', head=dict(type='classification.Linear'), loss=dict(type='losses.CrossEntropy'))
features = dict(dtype='fp32')
_loader = dict(batch_size=128, num_workers=2)
train_dataloader = dict(dataset=dict(type='datasets.Food101', root=_root, split='train', shots=5), **_loader)
val_dataloader = dict(dataset=dict(type='datasets.Food101', root=_root, split='val'), **_loader)
val_evaluator = [dict(type='classification.Accuracy')]
test_dataloader = dict(dataset=dict(type='datasets.Food101', root=_root, split='test'), **_loader)
test_evaluator = [
    dict(type='classification.Accuracy', intervals=1000), dict(type='classification.CalibrationError'),
    dict(type='classification.KNN', ks=[1, 5, 10])]
optim_wrapper = dict(optimizer=dict(type='core.AdamW', lr=1e-2, weight_decay=1e-4))
param_scheduler = dict(type='core.WarmupCosine', warmup=0.05)
train_cfg = dict(max_epochs=50, val_interval=10)
default_hooks = dict(logger=dict(interval=50), checkpoint=dict(interval=10))
