"""`python -m toolbox` is the console command."""

import sys

from toolbox.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
