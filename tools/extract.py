"""Store features:    python tools/extract.py configs/dinov3_folder.py"""

from _run import run_command

if __name__ == "__main__":
    run_command("extract")
