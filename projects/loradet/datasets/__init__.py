"""Readers, checks and generators of detection data. Public names load on first use, none at import."""

from importlib import import_module
from typing import Any

_HOMES = {
    "coco_dataset": "readers.coco",
    "register_coco": "readers.coco",
    "yolo_dataset": "readers.yolo",
    "yolo_to_coco": "readers.yolo",
    "count_yolo_classes": "readers.yolo_description",
    "yolo_class_names": "readers.yolo_description",
    "voc_dataset": "readers.voc",
    "voc_to_coco": "readers.voc",
    "count_voc_classes": "readers.voc",
    "voc_class_names": "readers.voc",
    "check": "checks",
    "check_splits": "checks",
    "fix": "checks",
    "make_subset": "subset",
    "split_coco": "splitting",
    "synthetic": "synthetic",
    "summarize": "summary",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{_HOMES[name]}")
    return module if name == _HOMES[name] else getattr(module, name)
