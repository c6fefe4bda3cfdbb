#!/usr/bin/env python
"""`loradet data`, where Detectron2's users look for it."""

import sys

try:
    from loradet.cli.data import *
    from loradet.cli.data import main
except (ImportError, ValueError) as error:  # no Detectron2 that can be used
    sys.exit(f"error: {error}")

if __name__ == "__main__":
    sys.exit(main())
