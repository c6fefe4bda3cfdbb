#!/usr/bin/env python
"""`loradet benchmark scan`, where Detectron2's users look for it."""

import sys

try:
    from loradet.cli.benchmark_scan import *
    from loradet.cli.benchmark_scan import main
except (ImportError, ValueError) as error:  # no Detectron2 that can be used
    sys.exit(f"error: {error}")

if __name__ == "__main__":
    main()
