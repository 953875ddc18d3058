"""`python -m bench COMMAND ...` is `ddim-bench COMMAND ...`."""

import sys

from bench.cli.entry import main

if __name__ == "__main__":
    sys.exit(main())
