"""Says, for a name that Detectron2 has and this subset does not, where to get it."""

from collections.abc import Callable, Iterable
from typing import Any, NoReturn

ADVICE = (
    "is not part of the embedded subset of Detectron2. An installed Detectron2 has it: install one as its "
    "own guide says and set LORADET_DETECTRON2=installed (or leave it unset)."
)


def missing_names(module: str, names: Iterable[str]) -> Callable[[str], Any]:
    """A module-level `__getattr__`: ImportError for `names`, AttributeError for any other name."""
    missing = frozenset(names)

    def module_getattr(name: str) -> NoReturn:
        if name in missing:
            raise ImportError(f"{module}.{name} {ADVICE}", name=f"{module}.{name}")
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return module_getattr
