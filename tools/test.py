"""Evaluate:    python tools/test.py configs/dinov3_sop.py work_dirs/dinov3_sop"""

import sys

try:
    from toolbox.cli.main import main
except ModuleNotFoundError as error:
    print(f"{error}: run `make venv`, then `.venv/bin/python tools/test.py`.", file=sys.stderr)
    sys.exit(2)

if __name__ == "__main__":
    sys.exit(main(["test", *sys.argv[1:]]))
