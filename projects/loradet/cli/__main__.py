"""`python -m loradet.cli`."""

import sys

from loradet.cli import main

if __name__ == "__main__":
    sys.exit(main())
