"""What every recipe shares: logging, checkpoints, the machine."""
default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(max_keep_ckpts=2, save_best='auto'))
env_cfg = dict(device='auto')
randomness = dict(seed=0)
evaluate_before = True
