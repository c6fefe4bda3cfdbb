"""What a trained detector's class numbers mean."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from loradet.adapters import read_adapter
from loradet.datasets.annotations import read_annotations
from loradet.datasets.provenance import says_synthetic
from loradet.datasets.yolo_description import coco_head
from loradet.errors import UserError


@dataclass(frozen=True)
class Classes:
    """Classes by number.

    Attributes:
        names: of the classes.
        ids: the data set's category ids.
        synthetic: whether the training images are known to be synthetic.
    """

    names: list[str]
    ids: list[int]
    synthetic: bool = False

    def categories(self) -> list[dict[str, Any]]:
        """The same as COCO has it."""
        return [{"id": i, "name": name} for i, name in zip(self.ids, self.names)]


def find_classes(cfg: DictConfig, checkpoint: str | Path, num_classes: int) -> Classes:
    """Class names and category ids, from the first of these that tells them.

    The adapter file; the annotation file `data.train_json` or the YOLO description `data.data_yaml` (in the order of
    `data.classes`); `data.classes`, with ids from 1. Without any of them the classes are `class 1`, `class 2` …

    Args:
        cfg: of the training.
        checkpoint: of the detector.
        num_classes: of the detector.

    Raises:
        ValueError: the names are of another number of classes, or the file does not have them.
    """
    truth, synthetic = _categories(cfg)
    wanted = [str(name) for name in (cfg.get("data") or {}).get("classes") or []]
    ids = list(range(1, num_classes + 1))
    names, source = [f"class {i}" for i in ids], "the config"
    info = read_adapter(checkpoint)[0] if Path(checkpoint).suffix == ".safetensors" else {}
    if info.get("classes"):
        names, ids, source = info["classes"], info.get("class_ids") or ids, str(checkpoint)
    elif truth is not None:
        source = str(cfg.data.get("train_json") or cfg.data.data_yaml)
        names = wanted or list(truth)
        if missing := [name for name in names if name not in truth]:
            raise UserError(f"data.classes has {', '.join(missing)}; {source} has {', '.join(truth)}.")
        ids = [truth[name] for name in names]
    elif wanted:
        names, source = wanted, "data.classes"
    if len(names) != num_classes:
        raise UserError(f"{source} names {len(names)} classes ({', '.join(names)}), the model has {num_classes}.")
    return Classes(list(names), list(ids), synthetic)


def _categories(cfg: DictConfig) -> tuple[dict[str, int] | None, bool]:
    """Class names and ids of the training annotations, and whether they are synthetic; None where they are not here."""
    data = cfg.get("data") or {}
    try:
        file, description = data.get("train_json"), data.get("data_yaml")
    except OmegaConfBaseException:  # data.root has no value
        return None, False
    try:
        if file is not None:
            found = read_annotations(file)
            return {one.name: one.id for one in found.classes}, found.synthetic
        if description is not None:
            head = coco_head(description)
            return {one["name"]: one["id"] for one in head["categories"]}, says_synthetic(head)
    except FileNotFoundError:
        pass
    return None, False
