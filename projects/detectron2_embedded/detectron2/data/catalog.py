"""Names for data sets: how to load one (`DatasetCatalog`), what is known about it (`MetadataCatalog`)."""

import difflib
from collections import UserDict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any


class _DatasetCatalog(UserDict):
    """From a name to a function without arguments that returns the list of records (or a torch Dataset)."""

    def register(self, name: str, func: Callable[[], Any]) -> None:
        """Register a loading function.

        Raises:
            AssertionError: the name is taken, or `func` is not callable.
        """
        if not callable(func):
            raise AssertionError(f"Data set {name!r}: register a function that loads it, not {func!r}.")
        if name in self:
            raise AssertionError(
                f"Data set {name!r} is registered already. Choose another name, or call "
                f"DatasetCatalog.remove({name!r}) before."
            )
        self[name] = func

    def get(self, name: str) -> Any:
        """Load a data set by calling its function.

        Raises:
            KeyError: no data set has this name.
        """
        if name not in self:
            raise KeyError(f"Data set {name!r} is not registered.{self._hint(name)}")
        return self[name]()

    def _hint(self, name: str) -> str:
        near = difflib.get_close_matches(name, self.list(), n=3)
        if near:
            return f" Did you mean {' or '.join(near)}?"
        return f" Registered: {', '.join(self.list()) or 'none'}."

    def list(self) -> list[str]:
        """Names that are registered."""
        return list(self)

    def remove(self, name: str) -> None:
        """Forget a name (alias of pop)."""
        self.pop(name)

    def __str__(self) -> str:
        return f"DatasetCatalog(registered datasets: {', '.join(self)})"

    __repr__ = __str__


class Metadata(SimpleNamespace):
    """Facts about a data set as attributes (`thing_classes`, `json_file` ...). A value is set once for good:
    setting another one later is an error, since two parts of a program would otherwise disagree about it."""

    name: str = "N/A"

    def __getattr__(self, key: str) -> Any:
        if key.startswith("__"):
            raise AttributeError(key)
        known = ", ".join(sorted(vars(self))) or "nothing"
        raise AttributeError(
            f"The metadata of data set {self.name!r} has no {key!r}; it has {known}. "
            "Is the data set registered, and were its annotations loaded?"
        )

    def __setattr__(self, key: str, value: Any) -> None:
        if key in vars(self) and vars(self)[key] != value:
            raise AssertionError(
                f"The metadata of data set {self.name!r} has {key}={vars(self)[key]!r} already; "
                f"it cannot become {value!r}. Register the other data set under another name."
            )
        super().__setattr__(key, value)

    def as_dict(self) -> dict[str, Any]:
        """All values, as a copy."""
        return dict(vars(self))

    def set(self, **kwargs: Any) -> "Metadata":
        """Set several values and return the metadata itself."""
        for key, value in kwargs.items():
            setattr(self, key, value)
        return self

    def get(self, key: str, default: Any = None) -> Any:
        """A value, or the default where there is none."""
        return vars(self).get(key, default)


class _MetadataCatalog(UserDict):
    """From a data set's name to its `Metadata`."""

    def get(self, name: str) -> Metadata:
        """The metadata of a name, made empty on first use."""
        if not name:
            raise AssertionError("A data set's name must not be empty.")
        if name not in self:
            self[name] = Metadata(name=name)
        return self[name]

    def list(self) -> list[str]:
        """Names that have metadata."""
        return list(self)

    def remove(self, name: str) -> None:
        """Forget a name (alias of pop)."""
        self.pop(name)

    def __str__(self) -> str:
        return f"MetadataCatalog(registered metadata: {', '.join(self)})"

    __repr__ = __str__


DatasetCatalog = _DatasetCatalog()
MetadataCatalog = _MetadataCatalog()
