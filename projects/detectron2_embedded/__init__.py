"""Makes `import detectron2` work: the installed one where there is one, else the subset that is kept here.

The environment variable `LORADET_DETECTRON2` decides:

- `auto` (default): an installed Detectron2 wins; where there is none, the embedded subset is appended to
  `sys.path`.
- `embedded`: the embedded subset goes to the front of `sys.path`.
- `installed`: an installed Detectron2 is required.

Importing this package needs nothing but the standard library, and never imports `detectron2` itself.
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

MODES = ("auto", "embedded", "installed")
ROOT = Path(__file__).resolve().parent


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
    return origin() == ROOT / "detectron2"


def activate() -> None:
    """Put the embedded subset on `sys.path` as `LORADET_DETECTRON2` asks. Calling it again changes nothing.

    Raises:
        ValueError: the variable holds an unknown word.
        ImportError: `installed` is asked for and there is none, or `embedded` is asked for after another
            `detectron2` was imported.
    """
    mode = os.environ.get("LORADET_DETECTRON2") or "auto"
    if mode not in MODES:
        raise ValueError(f"LORADET_DETECTRON2={mode!r}: expected one of {', '.join(MODES)}.")
    path = str(ROOT)
    if mode == "installed":
        _require_installed(path)
    elif mode == "embedded":
        if "detectron2" in sys.modules and not is_embedded():
            raise ImportError(
                f"LORADET_DETECTRON2=embedded, but another detectron2 was imported before ({origin()}). "
                "Import loradet (or detectron2_embedded) before anything of detectron2."
            )
        while path in sys.path:
            sys.path.remove(path)
        sys.path.insert(0, path)
        if not is_embedded():  # an editable install may put a finder before sys.path is looked at
            raise ImportError(
                f"LORADET_DETECTRON2=embedded, but {origin()} is found before {path}. Uninstall that "
                "detectron2, or set the variable to installed."
            )
    elif origin() is None:
        sys.path.append(path)


def _require_installed(path: str) -> None:
    # A spawned worker inherits its parent's sys.path, which may hold the embedded folder.
    while path in sys.path:
        sys.path.remove(path)
    if origin() is None or is_embedded():
        raise ImportError(
            "LORADET_DETECTRON2=installed, but no Detectron2 is installed. Install it as its own guide says "
            "(see docs/install.md), or unset the variable to use the embedded subset."
        )


activate()
