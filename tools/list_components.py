"""List every component, or show one: python tools/list_components.py [NAME] [--kind K] [--json] [--strict]"""

import sys

try:
    from toolbox.cli.main import main
except ModuleNotFoundError as error:
    print(f"{error}: run `make venv`, then `.venv/bin/python tools/list_components.py`.", file=sys.stderr)
    sys.exit(2)

if __name__ == "__main__":
    sys.exit(main(["list_components", *sys.argv[1:]]))
