"""Train a recipe:    python tools/train.py configs/dinov3_sop.py"""

import sys

try:
    from toolbox.cli.train import main
except ModuleNotFoundError as error:
    sys.exit(f"{error}. Run `make venv` once, then use .venv/bin/python tools/train.py")

if __name__ == "__main__":
    sys.exit(main())
