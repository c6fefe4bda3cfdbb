"""Command lines of the project's tools that can be pasted into the shell that this process was started from."""

import os
import shlex
import shutil
import sys
from pathlib import Path

import loradet

TOOLS = Path(loradet.__file__).resolve().parents[2] / "tools"
# Subcommands of `loradet`, where there is no clone.
_SUBCOMMANDS = {"lazyconfig_train_net.py": "train"}


def python_name() -> str:
    """How this interpreter is called from here."""
    name = Path(sys.executable).name
    on_path = shutil.which(name)
    return name if on_path and Path(on_path).samefile(sys.executable) else os.path.relpath(sys.executable)


def own_command() -> tuple[list[str], list[str]]:
    """How the program of this process is called from here, `loradet` with its subcommand; and the words behind."""
    file = Path(sys.argv[0])
    if not _is_loradet(file):
        return [python_name(), sys.argv[0]], sys.argv[1:]
    return [*_loradet(file), *sys.argv[1:2]], sys.argv[2:]


def tool_command(tool: str, *words: str | os.PathLike) -> str:
    """A call of `tools/<tool>`, or of the same as a subcommand of `loradet`: as this process was started.

    Where there is no clone, of `loradet`.
    """
    own, file = Path(sys.argv[0]), TOOLS / tool
    if _is_loradet(own) or not file.is_file():
        start = [*_loradet(own), _SUBCOMMANDS.get(tool, Path(tool).stem)]
    else:
        start = [python_name(), os.path.relpath(file)]
    return shlex.join([*start, *map(os.fspath, words)])


def _is_loradet(file: Path) -> bool:
    return file.stem == "loradet" or file.parts[-3:] == ("loradet", "cli", "__main__.py")


def _loradet(own: Path) -> list[str]:
    on_path = shutil.which("loradet")
    if own.stem == "loradet" and on_path and own.is_file() and Path(on_path).samefile(own):
        return ["loradet"]
    return [python_name(), "-m", "loradet.cli"]
