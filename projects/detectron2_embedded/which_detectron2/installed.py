"""Says in one line why an installed Detectron2 cannot be used: too old, or built for another torch.

Detectron2 itself takes a compiled part (`detectron2._C`) that cannot be loaded for one that was never built: some
versions go on without it in silence, others end in an error about a symbol. Here both are one error, with the
words of the linker and the ways out.
"""

import functools
import sys
import threading
from collections.abc import Callable, Sequence
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from detectron2_embedded.which_detectron2.choice import how_to_use
from detectron2_embedded.which_detectron2.location import EMBEDDED, version_of

COMPILED = "detectron2._C"


class InstalledError(ImportError):
    """The installed Detectron2 cannot be used; the message says why, and what to do."""


class MissingModuleError(InstalledError, ModuleNotFoundError):
    """The installed Detectron2 imports a module that is not installed."""


class _CompiledPartError(OSError):
    """`detectron2._C` is there and cannot be loaded. No ImportError: Detectron2 would take it for "not built"."""


def watch() -> None:
    """Have imports of an installed `detectron2` end in `InstalledError` where they fail; once is enough."""
    if _watch not in sys.meta_path:
        sys.meta_path.insert(0, _watch)


def why_too_old(folder: Path) -> str | None:
    """Why a Detectron2 cannot be used, told by its files; None where it is new enough, or no plain folder."""
    if _has_lazy_call(folder):
        return None
    return (
        f"{_name(folder)} is too old: it has no detectron2.config.LazyCall, which came with 0.4.1. "
        f"Install a newer one (0.6, better its main branch) as its own guide says, or {_way_out()}."
    )


@functools.cache
def _has_lazy_call(folder: Path) -> bool:
    files = [folder / "config.py", folder / "config" / "__init__.py", folder / "config" / "lazy.py"]
    texts = [file.read_text(encoding="utf-8", errors="replace") for file in files if file.is_file()]
    return not texts or any("LazyCall" in text for text in texts)


class _Watch:
    """A finder that finds what the others find, and gives errors of an installed `detectron2` their words."""

    def __init__(self) -> None:
        self._depth = threading.local()

    def find_spec(self, fullname: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        if fullname.partition(".")[0] != "detectron2":
            return None
        folder = None
        if fullname != "detectron2":
            folder = _folder(getattr(sys.modules.get("detectron2"), "__file__", None))
            if folder in (None, EMBEDDED):
                return None
            if problem := why_too_old(folder):
                raise InstalledError(problem, name=fullname)
        others = (finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec"))
        spec = next((spec for finder in others if (spec := finder.find_spec(fullname, path, target))), None)
        if spec is None and folder is not None and fullname == COMPILED and self._is_importing():
            _say_what_is_not_built(folder)
        folder = folder or _folder(spec.origin if spec is not None and spec.has_location else None)
        if spec is None or spec.loader is None or folder in (None, EMBEDDED):
            return spec
        for step in ("create_module", "exec_module"):
            if hasattr(spec.loader, step):
                # On the loader itself, whose class other tools look at.
                setattr(spec.loader, step, self._named(getattr(spec.loader, step), fullname, folder))
        return spec

    def _is_importing(self) -> bool:
        """Whether a module of `detectron2` is being imported in this thread."""
        return getattr(self._depth, "value", 0) > 0

    def _named(self, step: Callable[[Any], Any], fullname: str, folder: Path) -> Callable[[Any], Any]:
        def run(argument: ModuleSpec | ModuleType) -> Any:
            outermost = not self._is_importing()
            self._depth.value = getattr(self._depth, "value", 0) + 1
            try:
                return step(argument)
            except InstalledError:
                raise
            except ModuleNotFoundError as error:
                if not outermost:
                    raise
                way_out = f"Install that, or {_way_out()}."
                raise MissingModuleError(f"{_cannot_be_imported(folder, error)} {way_out}", name=error.name) from error
            except Exception as error:
                says_itself = fullname == COMPILED or isinstance(error, _CompiledPartError)
                if outermost:
                    why = error if says_itself else f"{type(error).__name__}: {error}"
                    way_out = f"Install it again as its own guide says, {_built_for()}, or {_way_out()}."
                    raise InstalledError(f"{_cannot_be_imported(folder, why)} {way_out}", name=fullname) from error
                if fullname == COMPILED:
                    raise _CompiledPartError(str(error)) from error
                raise  # Detectron2 tries some imports, and has an answer where they fail
            finally:
                self._depth.value -= 1

        return run


_watch = _Watch()


def _say_what_is_not_built(folder: Path) -> None:
    built = sorted(file.name for suffix in (".so", ".pyd") for file in folder.glob(f"_C.*{suffix}"))
    if built:
        raise _CompiledPartError(f"{folder / built[0]} is for another Python than this one ({EXTENSION_SUFFIXES[0]}).")
    raise ImportError("Its compiled part, detectron2._C, has not been built.", name=COMPILED)


def _cannot_be_imported(folder: Path, why: object) -> str:
    return f"{_name(folder)} cannot be imported: {' '.join(str(why).split()).rstrip('.')}."


def _name(folder: Path) -> str:
    return f"The installed Detectron2 {version_of(folder) or 'of unknown version'} ({folder})"


def _way_out() -> str:
    return f"set {how_to_use('always')} to use the subset in detectron2_embedded"


def _built_for() -> str:
    version = getattr(sys.modules.get("torch"), "__version__", None)
    if version is None:
        import importlib.metadata  # takes long, and is not needed otherwise

        try:
            version = importlib.metadata.version("torch")
        except importlib.metadata.PackageNotFoundError:
            return "built for the torch that is used"
    return f"built for this torch ({version})"


def _folder(file: str | None) -> Path | None:
    return Path(file).resolve().parent if file else None
