"""Embed images:    python tools/embed.py work_dirs/dinov3_folder photos/ photos.npz"""

from _run import run_command

if __name__ == "__main__":
    run_command("embed")
