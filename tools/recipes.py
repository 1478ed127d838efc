"""List the recipes that are installed:    python tools/recipes.py"""

import sys

try:
    from toolbox.cli.main import main
except ModuleNotFoundError as error:
    print(f"{error}: run `make venv`, then `.venv/bin/python tools/recipes.py`.", file=sys.stderr)
    sys.exit(2)

if __name__ == "__main__":
    sys.exit(main(["recipes", *sys.argv[1:]]))
