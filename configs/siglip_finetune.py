"""Fine-tune a released SigLIP 2 on your own images with captions; its zero-shot numbers are the "before".

    python tools/train.py configs/siglip_finetune.py --data DIR

Data as in `configs/dinov3_qwen3_clip.py`. Both towers are those of one released pair, with its own projections and
without heads, so a new run begins where the pair is. Another pair (SigLIP, SigLIP 2, CLIP): `--model ID`, for CLIP
with `"model.loss=dict(type='losses.CLIP')"`. Adapters train (LoRA); `model.vision.image.backbone.tune.mode=full`,
and the same of `model.text.text`, train all weights, at `optim_wrapper.optimizer.lr=1e-6` to 1e-5.
"""
_base_ = ['dinov3_qwen3_clip.py']
_tune = dict(mode='lora', rank=16)
model = dict(
    vision=dict(image=dict(
        _delete_=True,
        backbone=dict(
            type='encoders.HFVision', name='google/siglip2-base-patch16-224', projection=True,
            gradient_checkpointing=True, tune=_tune))),
    text=dict(text=dict(
        _delete_=True,
        backbone=dict(
            type='encoders.HFText', name='{model.vision.image.backbone.name}', projection=True,
            gradient_checkpointing=True, tune=_tune))),
    loss=dict(_delete_=True, type='losses.SigLIP', log_scale=4.6, bias=-12.0))
test_evaluator = [dict(type='alignment.Recall', intervals=1000)]
optim_wrapper = dict(optimizer=dict(lr=1e-4), parts=None, grad_cache=dict(chunk_size=64))
param_scheduler = dict(warmup=0.1)
