"""What is known of a trial, in `trial.json` of its run folder: the whole state of a search."""

import itertools
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from loradet.experiments.search.space import Value
from loradet.files import FileError, read_json, write_json
from loradet.json_kinds import FINITE, TEXT, WHOLE, entries, list_of, optional
from loradet.run_folder import RunFolder

OPEN, FINISHED, PRUNED, DIVERGED, FAILED = "open", "finished", "pruned", "diverged", "failed"
STATES = (OPEN, FINISHED, PRUNED, DIVERGED, FAILED)
_ADVICE = "Put the whole file back, or delete the trial's folder: the search then asks for another point."


@dataclass
class Trial:
    """One point of a search.

    Attributes:
        number: from 0.
        run: name of its run folder.
        point: key -> value, of what was asked for; keys that follow others are not in it.
        words: the overrides that it adds to the search's own.
        state: "open" (to be carried out, or to go on with), "finished", "pruned" (stopped, as others were better),
            "diverged" (its loss was not finite), "failed" (twice).
        value: the best evaluation, of a finished one.
        evaluations: the metric at each evaluation during training, in order.
        failures: how often its run has failed.
        detail: about its state.
    """

    number: int
    run: str
    point: dict[str, Value]
    words: list[str]
    state: str = OPEN
    value: float | None = None
    evaluations: list[float] = field(default_factory=list)
    failures: int = 0
    detail: str = ""


def write_trial(folder: Path, trial: Trial) -> None:
    """Into the run folder of `trial`, which is made.

    Args:
        folder: of the search.
    """
    run = RunFolder(folder / trial.run)
    run.path.mkdir(parents=True, exist_ok=True)
    write_json(run.trial, asdict(trial))


def read_trials(folder: Path) -> list[Trial]:
    """All trials in the folder of a search, by number.

    Raises:
        FileError: a file is broken, or two have one number.
    """
    trials = sorted(_read(sorted(folder.glob(f"*/{RunFolder.TRIAL}"))), key=lambda trial: trial.number)
    for one, other in itertools.pairwise(trials):
        if one.number == other.number:
            raise FileError(f"{folder}: {one.run} and {other.run} both say that they are trial {one.number}.")
    return trials


def _read(files: Iterable[Path]) -> Iterable[Trial]:
    for file in files:
        content = read_json(file, advice=_ADVICE)
        problem = _KINDS(content, "")
        if problem is None and content["state"] not in STATES:
            problem = f"state is {content['state']!r}; expected one of {', '.join(STATES)}"
        if problem is None and content["run"] != file.parent.name:
            problem = f"run is {content['run']!r}, and its folder {file.parent.name!r}"
        if problem is not None:
            raise FileError(f"{file}: {problem}. {_ADVICE}")
        yield Trial(**{key: content[key] for key in _FIELDS if key in content})


def _value(value: Any, where: str) -> str | None:
    return None if isinstance(value, str) else FINITE(value, where)


def _point(value: Any, where: str) -> str | None:
    if not isinstance(value, dict):
        return f"{where} is no object"
    return next((problem for key, one in value.items() if (problem := _value(one, f"{where}.{key}"))), None)


_FIELDS = ("number", "run", "point", "words", "state", "value", "evaluations", "failures", "detail")
_KINDS = entries(
    {
        "number": WHOLE,
        "run": TEXT,
        "point": _point,
        "words": list_of(TEXT),
        "state": TEXT,
        "value": optional(FINITE),
        "evaluations": list_of(FINITE),
        "failures": WHOLE,
        "detail": TEXT,
    },
    required=("number", "run", "point", "words", "state"),
)
