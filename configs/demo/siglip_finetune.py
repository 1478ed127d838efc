"""Train an image encoder and the text tower of a SigLIP with its loss, on embedded data: letters and their names.

    python tools/train.py configs/demo/siglip_finetune.py

Both encoders train, as when a released SigLIP is fine-tuned. The text tower is a tiny one of transformers with random
weights over bytes, and ends in the space that both share; the image encoder is that of the other demos, with a
projection into it. Data as in `configs/demo/dinov3_qwen3_frozen.py`.
"""
_base_ = ['dinov3_qwen3_frozen.py']
model = dict(
    vision=dict(image=dict(
        backbone=dict(tune=dict(mode='full')), head=dict(_delete_=True, type='core.Projection', dim=64, norm='layer'))),
    text=dict(text=dict(_delete_=True, backbone=dict(
        type='encoders.HFText', name=None, projection=True,
        arch=dict(
            model_type='siglip_text_model', hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
            intermediate_size=128, max_position_embeddings=80, projection_size=64),
        tune=dict(mode='full')))),
    loss=dict(type='losses.SigLIP'))
features = None
optim_wrapper = dict(parts={'model.vision.image.backbone': dict(lr=5e-4)})
train_cfg = dict(max_steps=200, val_interval=200)
default_hooks = dict(logger=dict(interval=50), checkpoint=dict(interval=200))
custom_hooks = [dict(type='alignment.ChanceWatch', after=0.5)]
