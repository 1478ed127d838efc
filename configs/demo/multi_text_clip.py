"""Align one image encoder with two text encoders on embedded data, each by a loss of its own.

    python tools/train.py configs/demo/multi_text_clip.py

As `configs/demo/dinov3_qwen3_frozen.py`, with the tiny text tower of a CLIP beside the tiny Qwen3. The embedding of a
text is the mean direction of the two; the table has the recall of each alone.
"""
_base_ = ['dinov3_qwen3_frozen.py']
model = dict(
    text=dict(
        clip=dict(
            backbone=dict(
                type='encoders.HFText', name=None, max_length=80,
                arch=dict(
                    model_type='clip_text_model', hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
                    intermediate_size=128, max_position_embeddings=80),
                tune=dict(mode='full')),
            pool='cls', head=dict(type='core.Projection', dim=256))))
_recalls = [
    dict(type='alignment.Recall'),
    dict(type='alignment.Recall', text='text'),
    dict(type='alignment.Recall', text='clip'),
]
val_evaluator = _recalls
test_evaluator = _recalls
train_cfg = dict(max_steps=150, val_interval=150)
default_hooks = dict(logger=dict(interval=50), checkpoint=dict(interval=150))
