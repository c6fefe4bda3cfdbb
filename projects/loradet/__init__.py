"""Adapt frozen foundation backbones to object detection, as a Detectron2 project.

Importing this package makes `import detectron2` work (installed or embedded, see `detectron2_embedded`)
and does nothing else: torch is imported by the subpackages that need it.
"""

import detectron2_embedded as _detectron2_embedded  # noqa: F401

__version__ = "0.1.0"
__all__ = ["__version__", "get_config"]


def __getattr__(name: str):
    if name == "get_config":
        from loradet.config.library import get_config

        return get_config
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
