"""The main job: `python bench/run.py --steps 10,50,1000`, the same as `ddim-bench run --steps 10,50,1000`."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the script's own folder comes first there; the packages lie beside it
    from bench.cli.entry import main

    sys.exit(main("run"))
