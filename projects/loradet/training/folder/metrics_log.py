"""Lines of `metrics.json`."""

import json
from pathlib import Path
from typing import Any

from loradet.files import FileError, atomic_open, parse_json
from loradet.json_kinds import NUMBER, WHOLE, entries, mapping_to


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; a last line that a killed run left unfinished is passed over, and what follows it.

    Raises:
        FileError: the file holds no text, or a line something that is no number; it is named.
    """
    lines = []
    try:
        texts = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    except UnicodeDecodeError as error:
        raise FileError(f"{path} is no metrics file ({error}). {_ADVICE}") from error
    for number, text in enumerate(texts, start=1):
        try:
            line = parse_json(text, str(path))
        except FileError:
            break
        if (problem := _VALUES(line, "") or _LINE(line, "")) is not None:
            raise FileError(f"{path}, line {number}: {problem}. {_ADVICE}")
        lines.append(line)
    return lines


_VALUES = mapping_to(NUMBER)
_LINE = entries({"iteration": WHOLE})
_ADVICE = "Put the whole file back, or delete it: a resumed run goes on without it."


def drop_lines_after(path: Path, iteration: int) -> None:
    """Leave out what a killed run logged after its last checkpoint, since the resumed run logs it again."""
    lines = read_lines(path)
    kept = [line for line in lines if line.get("iteration", -1) <= iteration]
    if path.is_file():
        with atomic_open(path) as file:
            file.writelines(json.dumps(line, sort_keys=True) + "\n" for line in kept)
