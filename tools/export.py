"""Export for other libraries:    python tools/export.py work_dirs/dinov3_folder exported/"""

import sys

try:
    from toolbox.cli.main import main
except ModuleNotFoundError as error:
    print(f"{error}: run `make venv`, then `.venv/bin/python tools/export.py`.", file=sys.stderr)
    sys.exit(2)

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))
