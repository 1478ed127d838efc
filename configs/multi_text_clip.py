"""Align one DINOv3 ViT-H+/16 with two text encoders, all frozen and stored, each by a loss of its own.

    python tools/train.py configs/multi_text_clip.py --data DIR

Qwen3-Embedding-4B and all-mpnet-base-v2, each pooled as its authors do. Data and weights as in
`configs/dinov3_qwen3_frozen.py`. An embedding of a text is the mean direction of the two towers; the test has the recall
of each alone beside it.
"""
_base_ = ['dinov3_qwen3_frozen.py']
model = dict(
    text=dict(mpnet=dict(
        backbone=dict(
            type='encoders.HFText', name='sentence-transformers/all-mpnet-base-v2', tune=dict(mode='frozen')),
        pool='cls', head=dict(type='alignment.GatedMLP', dim='{model.vision.image.head.dim}'))))
_names = ['text', 'mpnet']
test_evaluator = [
    dict(type='alignment.Recall', intervals=1000),
    *(dict(type='alignment.Recall', text=name) for name in _names),
    *(dict(type='alignment.Probe', text=name) for name in _names)]
