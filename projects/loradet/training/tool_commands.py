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


def tool_command(tool: str, *words: str | os.PathLike) -> str:
    """A call of `tools/<tool>`, or of the same as a subcommand of `loradet` in an installation without these files."""
    file = TOOLS / tool
    if file.is_file():
        start = [python_name(), os.path.relpath(file)]
    else:
        start = [python_name(), "-m", "loradet.cli", _SUBCOMMANDS.get(tool, Path(tool).stem)]
    return shlex.join([*start, *map(os.fspath, words)])
