"""Compare runs:    python tools/compare.py work_dirs/a work_dirs/b"""

import sys

try:
    from toolbox.cli.main import main
except ModuleNotFoundError as error:
    print(f"{error}: run `make venv`, then `.venv/bin/python tools/compare.py`.", file=sys.stderr)
    sys.exit(2)

if __name__ == "__main__":
    sys.exit(main(["compare", *sys.argv[1:]]))
