"""Command lines of the project that can be pasted into the shell that this process was started from."""

import os
import shlex
import shutil
import sys
from pathlib import Path

import loradet

TOOLS = Path(loradet.__file__).resolve().parents[2] / "tools"
COMMAND = "loradet"
# Subcommands of `loradet` that are called otherwise than their tools.
_SUBCOMMANDS = {"lazyconfig_train_net.py": "train", "datasets.py": "data", "experiments.py": "study"}


def python_name() -> str:
    """How this interpreter is called from here."""
    return _name_on_path(sys.executable)


def own_call() -> tuple[list[str], list[str]]:
    """How this process was called: the program, with the subcommand of `loradet`, and the words behind it."""
    command = _command()
    if command is None:
        return [python_name(), sys.argv[0]], sys.argv[1:]
    return [*command, *sys.argv[1:2]], sys.argv[2:]


def tool_command(tool: str, *words: str | os.PathLike) -> str:
    """A call of `tools/<tool>`; of the same as a subcommand where `loradet` was called, or there are no such files."""
    file, command = TOOLS / tool, _command()
    if command is None and file.is_file():
        start = [python_name(), _shorter(file)]
    elif words[:1] == ("--eval-only",):
        start, words = [*(command or _module()), "evaluate"], words[1:]
    else:
        start = [*(command or _module()), _SUBCOMMANDS.get(tool, Path(tool).stem)]
    return shlex.join([*start, *map(os.fspath, words)])


def _command() -> list[str] | None:
    """`loradet`, as this process was started by it; None where it was not."""
    program = Path(sys.argv[0])
    if program.stem == COMMAND:
        return [_name_on_path(sys.argv[0])]
    return _module() if program.parts[-3:] == ("loradet", "cli", "__main__.py") else None


def _module() -> list[str]:
    return [python_name(), "-m", "loradet.cli"]


def _name_on_path(program: str) -> str:
    """The name alone where the shell finds this very program by it."""
    name = Path(program).name
    on_path = shutil.which(name)
    found = on_path is not None and Path(program).exists() and Path(on_path).samefile(program)
    return name if found else _shorter(Path(program))


def _shorter(file: Path) -> str:
    """From here, or from the root: what is less to read."""
    return min(os.path.relpath(file), str(file.absolute()), key=len)
