"""Mine hard negatives:    python tools/mine_negatives.py work_dirs/dinov3_sop hard.jsonl"""

import sys

try:
    from toolbox.cli.main import main
except ModuleNotFoundError as error:
    print(f"{error}: run `make venv`, then `.venv/bin/python tools/mine_negatives.py`.", file=sys.stderr)
    sys.exit(2)

if __name__ == "__main__":
    sys.exit(main(["mine_negatives", *sys.argv[1:]]))
