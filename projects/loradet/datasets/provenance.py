"""Provenance of images: results on synthetic scenes are marked wherever they are written."""

from collections.abc import Mapping
from typing import Any

from loradet.datasets.annotations import read_annotations
from loradet.datasets.files import PathLike


def has_synthetic_flag(content: Mapping[str, Any]) -> bool:
    """Whether a COCO file's content marks its images as synthetic (`info.synthetic`)."""
    info = content.get("info")
    return isinstance(info, Mapping) and info.get("synthetic") is True


def is_synthetic(json_file: PathLike) -> bool:
    """The same for a file. Raises what `read_annotations` raises."""
    return read_annotations(json_file).synthetic
