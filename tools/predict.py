"""Classify pictures:    python tools/predict.py work_dirs/dinov3_food101 photos/ --out predictions.csv"""

import sys

try:
    from toolbox.cli.main import main
except ModuleNotFoundError as error:
    print(f"{error}: run `make venv`, then `.venv/bin/python tools/predict.py`.", file=sys.stderr)
    sys.exit(2)

if __name__ == "__main__":
    sys.exit(main(["predict", *sys.argv[1:]]))
