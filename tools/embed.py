"""Embed pictures:    python tools/embed.py work_dirs/dinov3_folder photos/ photos.npz"""

import sys

try:
    from toolbox.cli.main import main
except ModuleNotFoundError as error:
    print(f"{error}: run `make venv`, then `.venv/bin/python tools/embed.py`.", file=sys.stderr)
    sys.exit(2)

if __name__ == "__main__":
    sys.exit(main(["embed", *sys.argv[1:]]))
