#!/usr/bin/env python
"""`loradet weights convert`, where Detectron2's users look for it."""

import sys

try:
    from loradet.cli.weights_convert import *
    from loradet.cli.weights_convert import main
except (ImportError, ValueError) as error:  # no Detectron2 that can be used
    sys.exit(f"error: {error}")

if __name__ == "__main__":
    main()
