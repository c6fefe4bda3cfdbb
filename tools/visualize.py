#!/usr/bin/env python
"""`loradet visualize`, where Detectron2's users look for it."""

import sys

try:
    from loradet.cli.visualize import *
    from loradet.cli.visualize import main
except (ImportError, ValueError) as error:  # no Detectron2 that can be used
    sys.exit(f"error: {error}")

if __name__ == "__main__":
    main()
