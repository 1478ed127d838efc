"""Duplicates and leaks:    python tools/audit_data.py configs/dinov3_sop.py --near --out pairs.jsonl"""

import sys

try:
    from toolbox.cli.main import main
except ModuleNotFoundError as error:
    print(f"{error}: run `make venv`, then `.venv/bin/python tools/audit_data.py`.", file=sys.stderr)
    sys.exit(2)

if __name__ == "__main__":
    sys.exit(main(["audit_data", *sys.argv[1:]]))
