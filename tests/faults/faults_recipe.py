"""Everything that a step may depend on, in a run of some seconds: what must survive when it is killed."""

_base_ = ["../toy_recipe.py"]

plugins = ["../toy_plugin.py", "faults_plugin.py"]
model = dict(loss=dict(_delete_=True, type="losses.CrossBatchMemory", loss=dict(type="losses.SupCon"), size=48))
train_dataloader = dict(num_workers=2)
val_dataloader = dict(num_workers=1)
val_evaluator = [dict(type="toy.Nearest"), dict(type="faults.Spread")]
optim_wrapper = dict(
    accumulative_counts=2,
    grad_cache=dict(chunk_size=3),
    average=dict(decay=0.9, start=5),
    parts={"model.head": dict(lr=3e-3)},
)
param_scheduler = [dict(type="core.WarmupCosine", warmup=0.05), dict(type="core.Constant")]
train_cfg = dict(max_steps=150, val_interval=15)
default_hooks = dict(checkpoint=dict(interval=4, max_keep_ckpts=2, save_best="spread"))
custom_hooks = [dict(type="faults.Tally"), dict(type="faults.Strike")]
