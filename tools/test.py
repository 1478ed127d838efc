"""Evaluate:    python tools/test.py configs/dinov3_sop.py work_dirs/dinov3_sop"""

from _run import run_command

if __name__ == "__main__":
    run_command("test")
