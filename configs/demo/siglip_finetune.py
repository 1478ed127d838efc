"""Train both towers of a SigLIP of transformers on embedded data: letters and their names.

    python tools/train.py configs/demo/siglip_finetune.py

What fine-tuning of a released SigLIP does, on a tiny one with random weights over bytes: towers that end in the space
they share, no heads, and the loss of SigLIP. Data as in `configs/demo/dinov3_qwen3_frozen.py`.
"""
_base_ = ['dinov3_qwen3_frozen.py']
_size = dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128)
model = dict(
    vision=dict(image=dict(_delete_=True, backbone=dict(
        type='encoders.HFVision', name=None, size=32, projection=True,
        arch=dict(model_type='siglip_vision_model', patch_size=4, **_size), tune=dict(mode='full')))),
    text=dict(text=dict(_delete_=True, backbone=dict(
        type='encoders.HFText', name=None, projection=True,
        arch=dict(model_type='siglip_text_model', max_position_embeddings=80, projection_size=64, **_size),
        tune=dict(mode='full')))),
    loss=dict(type='losses.SigLIP'))
load_from = None
load_parts = None
features = None
optim_wrapper = dict(optimizer=dict(lr=2e-3))
train_cfg = dict(max_steps=200, val_interval=200)
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=200))
