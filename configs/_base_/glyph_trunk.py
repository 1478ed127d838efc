"""The frozen encoder of the demos, which `configs/demo/dinov3_trunk.py` trains on letters that no other demo uses."""
model = dict(
    backbone=dict(
        type='dinov3.ConvNeXt', name=None, size=32,
        arch=dict(hidden_sizes=[32, 64, 128, 192], depths=[1, 1, 2, 1], layer_scale_init_value=1.0),
        tune=dict(mode='frozen')))
load_from = 'dinov3_trunk.py'
load_parts = ['model.backbone']
evaluate_pixels = True
