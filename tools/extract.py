"""Store features:    python tools/extract.py configs/dinov3_folder.py"""

import sys

try:
    from toolbox.cli.main import main
except ModuleNotFoundError as error:
    print(f"{error}: run `make venv`, then `.venv/bin/python tools/extract.py`.", file=sys.stderr)
    sys.exit(2)

if __name__ == "__main__":
    sys.exit(main(["extract", *sys.argv[1:]]))
