#!/usr/bin/env python
"""`loradet benchmark`, where Detectron2's users look for it."""

import sys

try:
    from loradet.cli.benchmark import *
    from loradet.cli.benchmark import main
except (ImportError, ValueError) as error:  # no Detectron2 that can be used
    sys.exit(f"error: {error}")

if __name__ == "__main__":
    main()
