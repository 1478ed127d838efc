"""Compare runs:    python tools/compare.py work_dirs/a work_dirs/b"""

from _run import run_command

if __name__ == "__main__":
    run_command("compare")
