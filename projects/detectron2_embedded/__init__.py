"""Makes `import detectron2` work: the installed one where there is one, else the subset that is kept here.

The environment variable `DETECTRON2_EMBEDDED` decides:

- `auto` (default): an installed Detectron2 wins; where there is none, the embedded subset is appended to
  `sys.path`.
- `always`: the embedded subset goes to the front of `sys.path`.
- `never`: an installed Detectron2 is required.

`LORADET_DETECTRON2` is its alias, with the words `auto`, `embedded` and `installed`.

Importing this package needs nothing but the standard library, and never imports `detectron2` itself. Where an
installed one is in use, importing it says in one line when it is too old or cannot be imported
(`which_detectron2.installed`).
"""

import sys

from detectron2_embedded.which_detectron2 import installed
from detectron2_embedded.which_detectron2.choice import choice, how_to_use
from detectron2_embedded.which_detectron2.description import Detectron2, describe
from detectron2_embedded.which_detectron2.location import ROOT, is_embedded, origin

__all__ = ["ROOT", "Detectron2", "activate", "describe", "is_embedded", "origin"]


def activate() -> None:
    """Put the embedded subset on `sys.path` as the environment asks. Calling it again changes nothing.

    Raises:
        ValueError: a variable holds an unknown word, or the two variables disagree.
        ImportError: `never` is asked for and none is installed, or `always` is asked for after another
            `detectron2` was imported.
    """
    mode, written = choice()
    if mode == "never":
        _require_installed(written)
    elif mode == "always":
        _require_embedded(written)
    elif origin() is None:
        sys.path.append(str(ROOT))
    installed.watch()


def _require_installed(written: str) -> None:
    # A spawned worker inherits its parent's sys.path, which may hold the embedded folder.
    _take_off_path()
    if origin() is None or is_embedded():
        raise ImportError(
            f"{written}, but no Detectron2 is installed. Install it as its own guide says, or unset the variable "
            "to use the subset in detectron2_embedded."
        )


def _require_embedded(written: str) -> None:
    if "detectron2" in sys.modules and not is_embedded():
        raise ImportError(
            f"{written}, but another detectron2 was imported before ({origin()}). "
            "Import detectron2_embedded (or what imports it) before anything of detectron2."
        )
    _take_off_path()
    sys.path.insert(0, str(ROOT))
    if not is_embedded():  # an editable install may put a finder before sys.path is looked at
        raise ImportError(
            f"{written}, but {origin()} is found before {ROOT}. Uninstall that detectron2, or set "
            f"{how_to_use('never')}."
        )


def _take_off_path() -> None:
    while str(ROOT) in sys.path:
        sys.path.remove(str(ROOT))


activate()
