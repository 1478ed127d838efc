"""Write or check a dataset:    python tools/prepare_data.py glyphs --layout sop --out data/glyphs_sop"""

import sys

try:
    from toolbox.cli.main import main
except ModuleNotFoundError as error:
    print(f"{error}: run `make venv`, then `.venv/bin/python tools/prepare_data.py`.", file=sys.stderr)
    sys.exit(2)

if __name__ == "__main__":
    sys.exit(main(["prepare_data", *sys.argv[1:]]))
