"""Which classes weights are of: names and category ids that travel with them, and are compared with data by name."""

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch

from loradet.adapters.adapter_file import METADATA_KEY
from loradet.backbones.weights import ASSET, UNREADABLE, resolve
from loradet.errors import UserError

logger = logging.getLogger(__name__)

KEY = "classes"  # in checkpoints


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
        UserError: what it says are no classes.
    """
    text = os.fspath(path).partition("?")[0]
    if "://" in text and not text.startswith(ASSET):
        return None
    try:
        file = resolve(text)
        if file.suffix == ".safetensors":
            return _of_header(file)
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except (*UNREADABLE, OSError):
        return None
    return (
        WeightClasses.parse(content.get(KEY), str(path)) if isinstance(content, dict) and "model" in content else None
    )


def _of_header(file: Path) -> WeightClasses | None:
    with safetensors.safe_open(file, "pt") as opened:
        header = opened.metadata() or {}
    if METADATA_KEY in header:
        info = json.loads(header[METADATA_KEY])
        if not info.get("classes"):
            return None
        return WeightClasses.parse({"names": info["classes"], "ids": info.get("class_ids")}, str(file))
    return WeightClasses.parse(json.loads(header[KEY]), str(file)) if KEY in header else None


def header_of(path: str | os.PathLike) -> dict[str, str]:
    """What the header of a safetensors file holds of a checkpoint's classes; {} where it does not say them."""
    classes = read_weight_classes(path)
    return {} if classes is None else {KEY: json.dumps(classes.to_dict())}


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
