"""The console script `loradet`: outside of the package, whose import fails where there is no Detectron2 to be used."""

import os
import sys
import traceback


def main() -> None:
    """Run `loradet` and leave by its exit status; a Detectron2 that cannot be used is one line."""
    try:
        from loradet.cli import main as run
    except (ImportError, ValueError) as error:
        # As `loradet.errors` does, which cannot be imported then.
        if os.environ.get("LORADET_TRACEBACK"):
            traceback.print_exception(error)
        sys.exit(f"error: {error}")
    sys.exit(run())
