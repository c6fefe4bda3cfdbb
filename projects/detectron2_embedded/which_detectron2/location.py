"""Which package `import detectron2` gives, found without importing it."""

import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EMBEDDED = ROOT / "detectron2"


def origin() -> Path | None:
    """Folder of the package that `import detectron2` gives, or None where there is none.

    A bare folder named `detectron2` without `__init__.py` (a working directory, say) does not count.
    """
    module = sys.modules.get("detectron2")
    file = getattr(module, "__file__", None)
    if module is None:
        spec = find_spec("detectron2")
        file = spec.origin if spec is not None and spec.has_location else None
    return Path(file).resolve().parent if file else None


def is_embedded() -> bool:
    """Whether `import detectron2` gives the subset that is kept here."""
    return origin() == EMBEDDED


def version_of(folder: Path) -> str | None:
    """The version that a package's `__init__.py` states, found without running it; None where it states none."""
    file = folder / "__init__.py"
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
    words = [line.partition("=")[2].strip() for line in lines if line.startswith("__version__")]
    return words[-1].strip("'\"") if words else None
