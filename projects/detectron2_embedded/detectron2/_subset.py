"""Says, for a name that Detectron2 has and this subset does not, where to get it."""

import sys
from collections.abc import Callable, Iterable
from importlib.abc import MetaPathFinder
from typing import Any, NoReturn

from detectron2._instead import INSTEAD

ADVICE = (
    "is not part of the embedded subset of Detectron2 (detectron2_embedded). An installed Detectron2 has it: install "
    "one as its own guide says and set DETECTRON2_EMBEDDED=never (or leave it unset)."
)


def _says(path: str) -> str:
    """That a dotted path is absent, where to get it, and what to use here if anything."""
    instead = INSTEAD.get(path) or INSTEAD.get(path.rpartition(".")[2])
    return f"{path} {ADVICE}{f' Here, {instead}' if instead else ''}"


class _MissingModules(MetaPathFinder):
    """Asked for a module that no other finder has: refuses the known names, as `_says` does."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:  # noqa: ARG002
        if fullname in self.names:
            raise ModuleNotFoundError(_says(fullname), name=fullname)


_missing_modules = _MissingModules()
sys.meta_path.append(_missing_modules)


def missing_names(module: str, names: Iterable[str]) -> Callable[[str], Any]:
    """A module-level `__getattr__`: ImportError for `names`, AttributeError for any other name.

    The error says what to use in place of the name where `_instead.INSTEAD` has it. Where `module` is a package,
    importing one of `names` as a module of it is a ModuleNotFoundError that says the same.
    """
    missing = frozenset(names)
    _missing_modules.names.update(f"{module}.{name}" for name in missing)

    def module_getattr(name: str) -> NoReturn:
        if name in missing:
            raise ImportError(_says(f"{module}.{name}"), name=f"{module}.{name}")
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return module_getattr
