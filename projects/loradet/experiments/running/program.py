"""The command line of a subcommand of loradet."""

from pathlib import Path


def program(command: str, tool: str) -> list[str]:
    """The words behind the interpreter: of `loradet COMMAND`, or of `tools/TOOL.py` where a clone is stood in."""
    file = f"tools/{tool}.py"
    return [file] if Path(file).is_file() else ["-m", "loradet.cli", command]
