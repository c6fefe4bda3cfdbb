"""Public names of a package that are imported when first used, so that importing the package costs nothing.

A package says them once, as type checkers and editors read them:

    if TYPE_CHECKING:
        from loradet.adapters.freezing import freeze
    else:
        __getattr__, __dir__ = lazy_names(__name__)

    __all__ = ["freeze"]
"""

import functools
import importlib
import sys
from collections.abc import Callable
from typing import Any


def lazy_names(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package whose public names are imported under `if TYPE_CHECKING`.

    Args:
        package: its `__name__`.
    """

    def get_attribute(name: str) -> Any:
        home = homes(package).get(name)
        if home is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        # `from loradet.datasets import synthetic` names a module of the package itself.
        value = importlib.import_module(f"{home}.{name}" if home == package else home)
        value = value if home == package else getattr(value, name)
        setattr(sys.modules[package], name, value)
        return value

    def list_names() -> list[str]:
        module = sys.modules[package]
        return sorted({*vars(module), *module.__all__})

    return get_attribute, list_names


@functools.cache
def homes(package: str) -> dict[str, str]:
    """The module that each name under a package's `if TYPE_CHECKING` is imported from."""
    import ast  # not needed, and not for nothing, where no name is used
    import linecache

    module, found = sys.modules[package], dict[str, str]()
    source = "".join(linecache.getlines(str(module.__file__), vars(module)))
    for block in ast.parse(source).body:
        if isinstance(block, ast.If) and isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING":
            for node in block.body:
                if isinstance(node, ast.ImportFrom) and node.module is not None:
                    found |= {alias.name: node.module for alias in node.names}
    return found
