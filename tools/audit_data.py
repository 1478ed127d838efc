"""Duplicates and leaks:    python tools/audit_data.py configs/dinov3_sop.py --near --out pairs.jsonl"""

from _run import run_command

if __name__ == "__main__":
    run_command("audit_data")
