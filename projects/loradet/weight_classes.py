"""Metadata of weights: the classes that they were trained on, compared by name, and how images were read."""

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch

from loradet.adapters.files.adapter_file import METADATA_KEY
from loradet.backbones.weights import ASSET, UNREADABLE, resolve
from loradet.datasets.images.intensity import Intensity
from loradet.errors import UserError
from loradet.remote import is_url, local_copy, split_heuristics

logger = logging.getLogger(__name__)

KEY = "classes"  # in checkpoints
INTENSITY_KEY = "intensity"  # in checkpoints, adapter files and headers of safetensors


@dataclass(frozen=True)
class WeightClasses:
    """Classes in the order of a detector's class numbers.

    Attributes:
        names: of the classes.
        ids: category ids of the data that the weights were trained on; empty where they are not known.
    """

    names: tuple[str, ...]
    ids: tuple[int, ...] = ()

    @classmethod
    def of(cls, metadata: Any) -> "WeightClasses | None":
        """Those of Detectron2's metadata of a data set; None where it has no class names."""
        names = None if metadata is None else metadata.get("thing_classes")
        if not names:
            return None
        places = metadata.get("thing_dataset_id_to_contiguous_id") or {}
        ids = metadata.get("category_ids") or sorted(places, key=places.get)
        return cls(tuple(map(str, names)), tuple(map(int, ids)) if len(ids) == len(names) else ())

    @classmethod
    def parse(cls, value: Any, source: str) -> "WeightClasses | None":
        """What `to_dict` gave; None of None.

        Raises:
            UserError: it is something else; begins with `source`.
        """
        if value is None:
            return None
        names, ids = (value.get("names"), value.get("ids")) if isinstance(value, dict) else (None, None)
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or not names:
            raise UserError(f"{source}: its classes are {value!r}; expected a list of names, and ids.")
        fits = isinstance(ids, list) and len(ids) == len(names) and all(type(i) is int for i in ids)
        return cls(tuple(names), tuple(ids) if fits else ())

    def to_dict(self) -> dict[str, list]:
        """As checkpoints hold it."""
        return {"names": list(self.names), "ids": list(self.ids)}


def read_weight_classes(path: str | os.PathLike) -> WeightClasses | None:
    """The classes that a checkpoint or an adapter file says its weights are of, without reading the weights.

    None where it does not say, and for a file that is not here or cannot be read: loading it says so.

    Raises:
        UserError: what it says are no classes, or a URL cannot be read.
    """
    return WeightClasses.parse(_about(path).get(KEY), str(path))


def read_weight_intensity(path: str | os.PathLike) -> Intensity | None:
    """The rule of intensity that a checkpoint or an adapter file says its training images were read by.

    None where it does not say, as older ones, and as in `read_weight_classes`.

    Raises:
        UserError: what it says is no rule.
    """
    value = _about(path).get(INTENSITY_KEY)
    try:
        return None if value is None else Intensity.parse(value)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _about(path: str | os.PathLike) -> dict[str, Any]:
    """What a file says besides its weights; {} where nothing can be read."""
    text = os.fspath(path)
    if is_url(text):
        text = os.fspath(local_copy(split_heuristics(text)[0]))
    text = text.partition("?")[0]
    if "://" in text and not text.startswith(ASSET):
        return {}
    try:
        file = resolve(text)
        if file.suffix == ".safetensors":
            return _of_header(file)
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except (*UNREADABLE, OSError):
        return {}
    return content if isinstance(content, dict) and "model" in content else {}


def _of_header(file: Path) -> dict[str, Any]:
    with safetensors.safe_open(file, "pt") as opened:
        header = opened.metadata() or {}
    if METADATA_KEY in header:
        info = json.loads(header[METADATA_KEY])
        classes = {"names": info["classes"], "ids": info.get("class_ids")} if info.get("classes") else None
        return {KEY: classes, INTENSITY_KEY: info.get(INTENSITY_KEY)}
    return {key: json.loads(header[key]) for key in (KEY, INTENSITY_KEY) if key in header}


def header_of(path: str | os.PathLike) -> dict[str, str]:
    """What the header of a safetensors file holds of a checkpoint's classes and rule of intensity, where it says."""
    classes, intensity = read_weight_classes(path), read_weight_intensity(path)
    header = {} if classes is None else {KEY: json.dumps(classes.to_dict())}
    return header if intensity is None else {**header, INTENSITY_KEY: json.dumps(intensity.to_value())}


def compare_classes(
    weights: WeightClasses | None, names: Sequence[str] | None, *, source: str | os.PathLike, data: str | os.PathLike
) -> list[str] | None:
    """The names in the order of the weights, where the data have the same ones in another order; else None.

    Weights that do not say their classes are compared by number alone, elsewhere; a warning says so.

    Args:
        weights: of `source`.
        names: of the data, in their order; None compares nothing.
        source, data: what both are of, for messages.

    Raises:
        UserError: the names differ; the message has both.
    """
    if names is None:
        return None
    if weights is None:
        what = "%s does not say its classes (it is older, or no run's): those of %s are taken for them, in their order."
        logger.warning(what, source, data)
        return None
    if weights.names == tuple(names):
        return None
    if sorted(weights.names) == sorted(names):
        logger.warning(
            "%s numbers its classes as %s, %s as %s: the data are read in the order of the weights.",
            *(source, ", ".join(weights.names), data, ", ".join(names)),
        )
        return list(weights.names)
    raise UserError(
        f"{source} was trained on the classes {', '.join(weights.names)}; {data} has {', '.join(names)}. "
        "Take data and weights that belong together; data.classes=[…] chooses among the classes of a file."
    )
