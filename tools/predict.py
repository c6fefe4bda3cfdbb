#!/usr/bin/env python
"""`loradet predict`, where Detectron2's users look for it."""

import sys

try:
    from loradet.cli.predict import *
    from loradet.cli.predict import main
except (ImportError, ValueError) as error:  # no Detectron2 that can be used
    sys.exit(f"error: {error}")

if __name__ == "__main__":
    main()
