"""Readers, checks and generators of detection data. Public names load on first use, none at import."""

from importlib import import_module
from typing import Any

_HOMES = {
    "coco_dataset": "coco",
    "register_coco": "coco",
    "yolo_dataset": "yolo",
    "yolo_to_coco": "yolo",
    "count_yolo_classes": "yolo_description",
    "yolo_class_names": "yolo_description",
    "voc_dataset": "voc",
    "voc_to_coco": "voc",
    "count_voc_classes": "voc",
    "voc_class_names": "voc",
    "check": "checks",
    "check_splits": "checks",
    "fix": "checks",
    "make_subset": "subset",
    "split_coco": "split",
    "synthetic": "synthetic",
    "summarize": "summary",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{_HOMES[name]}")
    return module if name == _HOMES[name] else getattr(module, name)
