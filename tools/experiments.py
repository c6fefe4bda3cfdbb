#!/usr/bin/env python
"""`loradet study`, where Detectron2's users look for it."""

import sys

try:
    from loradet.cli.study import *
    from loradet.cli.study import main
except (ImportError, ValueError) as error:  # no Detectron2 that can be used
    sys.exit(f"error: {error}")

if __name__ == "__main__":
    sys.exit(main())
