"""`python -m s4gen`."""

import sys

from s4gen.cli import main

if __name__ == "__main__":
    sys.exit(main())
