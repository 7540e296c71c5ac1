"""`python -m samovar`: the same as the command `samovar`."""

import sys

from samovar.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
