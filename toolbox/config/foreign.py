"""What keys and arguments of flat recipes and scripts, which others call by one word each, are called here.

docs/from_other_scripts.md shows this table; a test proves that every answer is accepted, or refused as told.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Foreign:
    """A key of another tool.

    - `ours`: what to give here, as `key.path=value` for `--cfg-options` or as an argument of a command; None where
      there is nothing to give.
    - `note`: what differs, or why nothing needs to be given.
    """

    ours: str | None = None
    note: str = ""

    @property
    def hint(self) -> str:
        """One sentence for whoever wrote the foreign key."""
        if self.ours is None:
            return self.note
        return f"Here it is {self.ours}{'. ' + self.note if self.note else '.'}"


_TEXT = "Retrieval here embeds images: there is no text encoder."
_NOWHERE = "No code of the other tool ever read this key. "

_MRL = "model.loss=dict(type='losses.Matryoshka',loss=dict(type='losses.SupCon'),dims=[512,256,128])"

FOREIGN: dict[str, Foreign] = {
    # model
    "model_name": Foreign(
        "model.backbone.name=vitb16", "DINOv3 by size, Hugging Face id or folder; other encoders with another "
        "model.backbone.type."
    ),
    "model_name_or_path": Foreign("the command test CONFIG CHECKPOINT", "To judge a trained model; a backbone's "
                                  "weights are model.backbone.name=FOLDER."),
    "model_path": Foreign("the command test CONFIG CHECKPOINT"),
    "image_model_name": Foreign("model.backbone.name=vitb16"),
    "text_model_name": Foreign(None, _TEXT),
    "model_type": Foreign("model.backbone.type=dinov3.ViT"),
    "encoder_mode": Foreign("model.backbone.type=dinov3.ViT", "The component says which encoder it is."),
    "use_lora": Foreign("model.backbone.tune.mode=lora", "Or 'full', 'last', 'frozen'."),
    "lora_r": Foreign("model.backbone.tune.rank=16"),
    "lora_alpha": Foreign("model.backbone.tune.alpha=32"),
    "lora_dropout": Foreign("model.backbone.tune.dropout=0.05"),
    "lora_target_modules": Foreign("model.backbone.tune.targets=['q_proj','v_proj']", "None adapts all linear layers."),
    "teacher_model_name": Foreign("model.teacher=dict(type='dinov3.ViT',name='vitl16')",
                                  "With losses.Distillation as the loss or in a losses.Sum."),
    "projection_dim": Foreign("model.head=dict(type='core.Projection',dim=512)"),
    "projection_layers": Foreign("model.head=dict(type='core.Projection',layers=2)"),
    "pooling_method": Foreign("model.pool=mean", "cls, mean, cls+mean, gem, tokens; 'mean' is the mean of patches."),
    "topk_tokens": Foreign("model.pool=dict(type='core.Pool',mode='tokens',keep=32)", "For losses.MaxSim."),
    "torch_dtype": Foreign("optim_wrapper.precision=bf16", "Weights stay float32."),
    "fp16": Foreign("optim_wrapper.precision=fp16", "bf16 where the device has it."),
    "bf16": Foreign("optim_wrapper.precision=bf16"),
    "attn_implementation": Foreign(None, "PyTorch's fused attention is used."),
    "gradient_checkpointing": Foreign("model.backbone.gradient_checkpointing=True"),
    "use_torch_compile": Foreign("env_cfg.compile=True"),
    # data
    "data_path": Foreign("train_dataloader.dataset.path=train.jsonl", "With train_dataloader.dataset.type="
                         "datasets.Records; a SOP folder needs no file: datasets.SOP."),
    "val_data_path": Foreign("val_dataloader.dataset.path=val.jsonl", "With val_dataloader.dataset.type="
                             "datasets.Records; without it split='val' holds classes out of the training file."),
    "image_root": Foreign("train_dataloader.dataset.root=data/images"),
    "sop_root": Foreign("test_dataloader.dataset.root=data/stanford_online_products"),
    "column_mapping": Foreign("train_dataloader.dataset.columns=dict(query_image='file',label='product')"),
    "retrieval_mode": Foreign("train_dataloader.dataset.mode=i2i"),
    "num_workers": Foreign("train_dataloader.num_workers=4"),
    "prefetch_factor": Foreign("train_dataloader.prefetch_factor=2"),
    "pin_memory": Foreign(None, "Memory is pinned wherever the device is no CPU."),
    "persistent_workers": Foreign(None, "Workers live as long as the run."),
    "enable_image_cache": Foreign(None, "The operating system keeps files in memory."),
    "validate_data": Foreign("--check", "Every run starts with it; the command audit_data looks at every file."),
    "skip_invalid_records": Foreign("train_dataloader.on_bad_item=skip", "Skipped items are counted and named."),
    "max_image_size": Foreign("model.backbone.size=224"),
    "max_seq_length": Foreign(None, _TEXT),
    "prompt": Foreign(None, _TEXT),
    # training
    "output_dir": Foreign("--work-dir DIR"),
    "overwrite_output_dir": Foreign("--overwrite"),
    "dry_run": Foreign("--check"),
    "epochs": Foreign("train_cfg.max_epochs=20"),
    "batch_size": Foreign("train_dataloader.sampler.batch_size=128", "With retrieval.Pairs; retrieval.PK has classes "
                          "times per_class; without a sampler train_dataloader.batch_size."),
    "eval_batch_size": Foreign("test_dataloader.batch_size=256"),
    "lr": Foreign("optim_wrapper.optimizer.lr=1e-4"),
    "learning_rate": Foreign("optim_wrapper.optimizer.lr=1e-4"),
    "weight_decay": Foreign("optim_wrapper.optimizer.weight_decay=0.01"),
    "max_grad_norm": Foreign("optim_wrapper.clip_grad.max_norm=1.0"),
    "scheduler_type": Foreign("param_scheduler.type=core.WarmupCosine", "Or core.Constant."),
    "warmup_ratio": Foreign("param_scheduler.warmup=0.1"),
    "warmup_steps": Foreign("param_scheduler.warmup=100"),
    "gradient_accumulation_steps": Foreign("optim_wrapper.accumulative_counts=2", "Negatives come from one batch; "
                                           "grad_cache makes that one larger."),
    "seed": Foreign("randomness.seed=0"),
    "use_gradient_cache": Foreign("optim_wrapper.grad_cache.chunk_size=64"),
    "gradient_cache_chunk_size": Foreign("optim_wrapper.grad_cache.chunk_size=64"),
    "save_steps": Foreign("default_hooks.checkpoint=dict(interval=500,by_epoch=False)", "0 meant every epoch, which is "
                          "the default here."),
    "save_strategy": Foreign("default_hooks.checkpoint.by_epoch=True"),
    "logging_steps": Foreign("default_hooks.logger.interval=10"),
    "report_to": Foreign("custom_hooks=[dict(type='core.TensorBoard')]",
                         "Or core.WandB, core.Trackio, core.SwanLab, core.MLflow; "
                         "metrics.jsonl and report.html are always written."),
    "num_gpus": Foreign(None, "Start as many processes: torchrun --nproc_per_node=8 -m toolbox train CONFIG"),
    "use_fsdp": Foreign("env_cfg.parallel.mode=fsdp"),
    "ddp_find_unused_parameters": Foreign("env_cfg.parallel.find_unused_parameters=True"),
    "find_unused_parameters": Foreign("env_cfg.parallel.find_unused_parameters=True"),
    "model_wrapper_cfg": Foreign("env_cfg.parallel.mode=ddp", "Or 'fsdp'."),
    "launcher": Foreign("--launcher pytorch", "An argument of the command train, with torchrun."),
    "debug_gpu_memory": Foreign("--check", "It estimates the memory; train_results.json has the peak of the run."),
    # loss
    "loss_type": Foreign("model.loss=dict(type='losses.SupCon')", "losses.InfoNCE, Triplet, CoSENT, SigLIP, MaxSim "
                         "(colbert), Distillation and others: the command list_components --kind loss."),
    "temperature": Foreign("model.loss.temperature=0.05"),
    "loss_bidirectional": Foreign("model.loss=dict(type='losses.InfoNCE',symmetric=True)"),
    "triplet_margin": Foreign("model.loss=dict(type='losses.Triplet',margin=0.5)"),
    "cosent_scale": Foreign("model.loss=dict(type='losses.CoSENT',scale=20.0)"),
    "hard_topk": Foreign("model.loss=dict(type='losses.InfoNCE',hardest=16)"),
    "hard_mining_topk": Foreign("model.loss=dict(type='losses.InfoNCE',hardest=16)"),
    "use_all_negatives": Foreign("train_dataloader.sampler.negatives=0", "Explicit negatives of retrieval.Pairs add to "
                                 "those in the batch."),
    "init_logit_scale": Foreign("model.loss=dict(type='losses.SigLIP')", "It is learned, and saved."),
    "init_logit_bias": Foreign("model.loss=dict(type='losses.SigLIP')", "It is learned, and saved."),
    "enable_gather": Foreign(None, "Losses see the embeddings of all processes."),
    "use_mrl": Foreign(_MRL),
    "mrl_dims": Foreign(_MRL),
    "mrl_weights": Foreign("model.loss=dict(type='losses.Matryoshka',loss=dict(type='losses.SupCon'),dims=[512,128],"
                           "weights=[1.0,1.0])"),
    "distillation_alpha": Foreign("model.loss=dict(type='losses.Sum',losses=[dict(type='losses.SupCon'),"
                                  "dict(type='losses.Distillation')],weights=[1.0,0.5])"),
    "distillation_temperature": Foreign("model.loss=dict(type='losses.Distillation',temperature=1.0)"),
    "distillation_loss_type": Foreign("model.loss=dict(type='losses.Distillation',kind='kl')"),
    "enable_hard_mining": Foreign(None, _NOWHERE + "Hard negatives: the command mine_negatives."),
    "hard_mining_lambda": Foreign(None, _NOWHERE + "Hard negatives: the command mine_negatives."),
    "use_memory_bank": Foreign("model.loss=dict(type='losses.CrossBatchMemory',loss=dict(type='losses.SupCon'))",
                               "With model.cross_view=False: all views are one batch."),
    # classification
    "dataset": Foreign("train_dataloader.dataset.name=ethz/food101", "With train_dataloader.dataset.type=datasets.HF; "
                       "val and test follow it."),
    "train_split_ratio": Foreign("train_dataloader.dataset.ratio=0.1", "The same share of each class, drawn with "
                                 "train_dataloader.dataset.seed."),
    "val_split_ratio": Foreign("test_dataloader.dataset.ratio=0.1", "What it was chosen and judged by there; here "
                               "val_dataloader is held out of the training data, and chooses."),
    "freeze_backbone": Foreign("model.backbone.tune.mode=frozen", "Or 'lora', 'last', 'full', with features=None."),
    "use_4bit": Foreign("model.backbone.quantize=dict(bits=4)"),
    "bnb_4bit_compute_dtype": Foreign("model.backbone.quantize=dict(bits=4,compute='bf16')", "Or 'fp16', 'fp32'; "
                                      "without it that of optim_wrapper.precision."),
    "bnb_4bit_quant_type": Foreign("model.backbone.quantize=dict(bits=4,kind='nf4')", "Or 'fp4'."),
    "use_nested_quant": Foreign("model.backbone.quantize=dict(bits=4,nested=True)"),
    "eval_every_steps": Foreign("train_cfg=dict(max_steps=1500,val_interval=100)", "With max_epochs it counts epochs."),
    "checkpoint_dir": Foreign("--work-dir DIR"),
    "project_name": Foreign("--track PROJECT", "Trackio, locally."),
    "no_tracking": Foreign(None, "Nothing is tracked unless --track or a hook asks for it."),
}  # fmt: skip


def translated(file: Path) -> list[str]:
    """What the keys of a flat YAML recipe are here: a line each."""
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    keys = [match[1] for line in lines if (match := re.match(r"(\w+)\s*:", line))]
    answers = {key: FOREIGN[key].ours or FOREIGN[key].note if key in FOREIGN else "unknown here" for key in keys}
    start = (
        "Start from configs/dinov3_sop_baseline.py or configs/dinov3_sop.py (retrieval) or configs/dinov3_food101.py "
        "(classification), with these as --cfg-options, your values in place of the examples:"
    )
    return [start, *(f"  {key}: {answer}" for key, answer in answers.items()), "See docs/from_other_scripts.md."]
