"""The console script `loradet`: outside of the package, whose import fails where there is no Detectron2 to be used."""

import sys


def main() -> None:
    """Run `loradet` and leave by its exit status; a Detectron2 that cannot be used is one line."""
    try:
        from loradet.cli import main as run
    except (ImportError, ValueError) as error:
        sys.exit(f"error: {error}")
    sys.exit(run())
