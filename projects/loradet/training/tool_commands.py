"""Command lines of the project's tools that can be pasted into the shell that this process was started from."""

import os
import shlex
import shutil
import sys
from pathlib import Path

import loradet

TOOLS = Path(loradet.__file__).resolve().parents[2] / "tools"


def python_name() -> str:
    """How this interpreter is called from here."""
    name = Path(sys.executable).name
    on_path = shutil.which(name)
    return name if on_path and Path(on_path).samefile(sys.executable) else os.path.relpath(sys.executable)


def tool_command(tool: str, *words: str | os.PathLike) -> str | None:
    """A call of `tools/<tool>`; None in an installation that has no such file."""
    file = TOOLS / tool
    if not file.is_file():
        return None
    return shlex.join([python_name(), os.path.relpath(file), *map(os.fspath, words)])
