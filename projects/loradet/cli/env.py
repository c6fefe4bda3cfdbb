"""Print which Detectron2 is used, and the versions of what results depend on."""

import argparse

from loradet.errors import errors_in_one_line


def main(argv: list[str] | None = None, prog: str | None = None) -> None:
    """`loradet env`."""
    argparse.ArgumentParser(prog=prog, description=__doc__).parse_args(argv)
    with errors_in_one_line():
        from loradet import env

        env.main()
