"""`python -m rome_core`: distil and evaluate without the service."""

import sys

from rome_core.cli import main

if __name__ == "__main__":
    sys.exit(main())
