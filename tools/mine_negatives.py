"""Mine hard negatives:    python tools/mine_negatives.py work_dirs/dinov3_sop hard.jsonl"""

from _run import run_command

if __name__ == "__main__":
    run_command("mine_negatives")
