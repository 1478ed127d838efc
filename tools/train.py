"""Train a recipe:    python tools/train.py configs/dinov3_sop.py"""

from _run import run_command

if __name__ == "__main__":
    run_command("train")
