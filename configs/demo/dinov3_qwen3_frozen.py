"""Align a frozen image encoder with a text encoder on embedded data: letters and their names.

    python tools/train.py configs/demo/dinov3_qwen3_frozen.py

Letters of five scripts with captions. Validation and test have letters whose names are not trained on; those of the
test are Greek, Armenian and Georgian. The image encoder is that of the other demos, made on first use from Latin and
Cyrillic letters; its features are stored once. The text encoder, a tiny Qwen3 over bytes, trains from scratch, with the
heads. `test_dataloader.dataset.path=data/glyphs_pairs/test_faces.jsonl` tests names that were trained, of the same
scripts, in fonts that were not.
"""
_base_ = ['../_base_/runtime.py']
_root = 'data/glyphs_pairs'
_data = dict(type='datasets.Records', mode='i2t')
prepare = [dict(dataset='glyphs.Glyphs', out=_root, layout='pairs')]
model = dict(
    type='alignment.DualEncoder',
    vision=dict(image=dict(
        backbone=dict(
            type='dinov3.ConvNeXt', name=None, size=32,
            arch=dict(hidden_sizes=[32, 64, 128, 192], depths=[1, 1, 2, 1], layer_scale_init_value=1.0),
            tune=dict(mode='frozen')),
        pool='cls', head=dict(type='alignment.GatedMLP', dim=256, expansion=4.0, dropout=0.3))),
    text=dict(text=dict(
        backbone=dict(
            type='qwen3.Embedding', name=None, max_length=80,
            arch=dict(
                hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
                intermediate_size=128),
            tune=dict(mode='full')),
        pool='last', head=dict(type='core.Projection', dim=256))),
    loss=dict(type='losses.CLIP'))
load_from = 'dinov3_trunk.py'
load_parts = {'model.vision.image.backbone': 'model.backbone'}
features = dict(dtype='fp32')
train_dataloader = dict(dataset=dict(path=f'{_root}/train.jsonl', **_data), batch_size=128, num_workers=2)
val_dataloader = dict(dataset=dict(path=f'{_root}/val.jsonl', **_data), batch_size=256, num_workers=0)
val_evaluator = [dict(type='alignment.Recall'), dict(type='alignment.ZeroShot', prompts=['{}'])]
test_dataloader = dict(dataset=dict(path=f'{_root}/test_letters.jsonl', **_data), batch_size=256, num_workers=0)
test_evaluator = [dict(type='alignment.Recall'), dict(type='alignment.ZeroShot', prompts=['{}'])]
optim_wrapper = dict(optimizer=dict(type='core.AdamW', lr=2e-3, weight_decay=0.05), clip_grad=dict(max_norm=1.0))
param_scheduler = dict(type='core.WarmupCosine', warmup=0.1)
train_cfg = dict(max_steps=500, val_interval=500)
default_hooks = dict(logger=dict(interval=50), checkpoint=dict(interval=500))
env_cfg = dict(threads=2)
custom_hooks = [dict(type='alignment.ChanceWatch')]
