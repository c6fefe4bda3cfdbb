#!/usr/bin/env python
"""`loradet weights export`, where Detectron2's users look for it."""

import sys

try:
    from loradet.cli.weights_export import *
    from loradet.cli.weights_export import main
except (ImportError, ValueError) as error:  # no Detectron2 that can be used
    sys.exit(f"error: {error}")

if __name__ == "__main__":
    main()
