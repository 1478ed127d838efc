"""Evaluate:    python tools/test.py configs/dinov3_sop.py work_dirs/dinov3_sop"""

import sys

try:
    from toolbox.cli.test import main
except ModuleNotFoundError as error:
    sys.exit(f"{error}. Run `make venv` once, then use .venv/bin/python tools/test.py")

if __name__ == "__main__":
    sys.exit(main())
