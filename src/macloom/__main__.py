"""`python -m macloom` is the command line."""

import sys

from macloom.cli import main

if __name__ == "__main__":
    sys.exit(main())
