"""Trains the recipes in a folder, one after the other, as one of several ranks: NAME.toml into the folder NAME."""

import sys
from pathlib import Path

from s4gen.config import load_recipe
from s4gen.train import follow, run
from s4gen.train.joining import joined

if __name__ == "__main__":
    with joined() as ranks:
        for path in sorted(Path(sys.argv[1]).glob("*.toml")):
            if ranks.leads:
                run(load_recipe(path), path.with_suffix(""), progress=False, ranks=ranks)
            else:
                follow(ranks)
