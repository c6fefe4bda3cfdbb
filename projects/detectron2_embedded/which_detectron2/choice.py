"""What the environment says about which Detectron2 to use."""

import os
from typing import NamedTuple

VARIABLE = "DETECTRON2_EMBEDDED"
ALIAS = "LORADET_DETECTRON2"  # the name and words that the first project to use this package gave it
MODES = ("auto", "never", "always")
_WORDS = {
    VARIABLE: {"auto": "auto", "never": "never", "always": "always"},
    ALIAS: {"auto": "auto", "embedded": "always", "installed": "never"},
}


class Choice(NamedTuple):
    """The mode asked for (one of `MODES`), and how the user wrote it, for messages."""

    mode: str
    written: str


def choice() -> Choice:
    """What the two variables ask for; `auto` where neither is set. An empty one is as good as not set.

    Raises:
        ValueError: a variable holds an unknown word, or the two disagree.
    """
    found = [Choice(_mode(name, os.environ[name]), _written(name)) for name in _WORDS if os.environ.get(name)]
    if len({each.mode for each in found}) > 1:
        raise ValueError(f"{found[0].written} and {found[1].written} contradict each other. Unset one of them.")
    return found[0] if found else Choice("auto", f"{VARIABLE}=auto")


def how_to_use(mode: str) -> str:
    """The assignment that asks for a mode, by the variable that is set already."""
    name = ALIAS if os.environ.get(ALIAS) and not os.environ.get(VARIABLE) else VARIABLE
    return next(f"{name}={word}" for word, meaning in _WORDS[name].items() if meaning == mode)


def _mode(name: str, word: str) -> str:
    if word not in _WORDS[name]:
        raise ValueError(f"{name}={word!r}: expected one of {', '.join(_WORDS[name])}.")
    return _WORDS[name][word]


def _written(name: str) -> str:
    return f"{name}={os.environ[name]}"
