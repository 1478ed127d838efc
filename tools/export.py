"""Export for other libraries:    python tools/export.py work_dirs/dinov3_folder exported/"""

from _run import run_command

if __name__ == "__main__":
    run_command("export")
