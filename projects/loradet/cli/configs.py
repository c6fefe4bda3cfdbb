"""List the configs that come with the project, and copy one to edit."""

import argparse
import shlex

from loradet.errors import errors_in_one_line


def main(argv: list[str] | None = None, prog: str | None = None) -> None:
    """`loradet configs`: names with the first line of what each says of itself."""
    parser = argparse.ArgumentParser(prog=prog, description="List the configs that --config-file takes by name.")
    parser.add_argument("words", nargs="*", metavar="WORD", help="only those in whose name or line all of these are")
    arguments = parser.parse_args(argv)
    with errors_in_one_line():
        from loradet.config.library import list_configs

        configs = list_configs()
    words = [word.lower() for word in arguments.words]
    chosen = {name: line for name, line in configs.items() if all(w in f"{name} {line}".lower() for w in words)}
    width = max(map(len, chosen), default=0)
    for name, line in chosen.items():
        print(f"{name:{width}}  {line}")


def copy(argv: list[str] | None = None, prog: str | None = None) -> None:
    """`loradet copy`: a config to edit."""
    parser = argparse.ArgumentParser(
        prog=prog, description="Write a copy of a config to edit. It works where it lies; loradet configs lists names."
    )
    parser.add_argument("name", metavar="NAME", help="as custom_coco")
    parser.add_argument("folder", nargs="?", default=".", metavar="DIR", help="to write it to (the current one)")
    arguments = parser.parse_args(argv)
    with errors_in_one_line():
        from loradet.config.library import copy_config

        written = copy_config(arguments.name, arguments.folder)
    print(f"Written: {written}\nTrain on it: loradet train --config-file {shlex.quote(str(written))} KEY=VALUE …")
