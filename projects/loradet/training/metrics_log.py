"""Lines of `metrics.json`."""

import json
from pathlib import Path
from typing import Any

from loradet.files import FileError, atomic_open, parse_json


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; a last line that a killed run left unfinished is passed over."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            lines.append(parse_json(text, str(path)))
        except FileError:
            break
    return lines


def drop_lines_after(path: Path, iteration: int) -> None:
    """Leave out what a killed run logged after its last checkpoint, since the resumed run logs it again."""
    lines = read_lines(path)
    kept = [line for line in lines if line.get("iteration", -1) <= iteration]
    if path.is_file():
        with atomic_open(path) as file:
            file.writelines(json.dumps(line, sort_keys=True) + "\n" for line in kept)
