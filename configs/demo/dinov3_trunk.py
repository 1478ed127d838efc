"""The small encoder that the demos with a frozen backbone start from: a shorter run of the retrieval demo.

    python tools/train.py configs/demo/dinov3_trunk.py      (the demos that need it do this themselves, once)

It is trained on Latin and Cyrillic letters; those demos use Greek, Armenian and Georgian ones.
"""
_base_ = ['dinov3_sop.py']
train_cfg = dict(max_steps=500, val_interval=500)
default_hooks = dict(checkpoint=dict(interval=500))
test_dataloader = None
test_evaluator = None
evaluate_before = False
evaluate_pixels = False
