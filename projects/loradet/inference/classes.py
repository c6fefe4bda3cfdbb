"""Class names and category ids of a trained detector."""

import logging
from pathlib import Path

from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from loradet.datasets.annotations import read_annotations
from loradet.datasets.provenance import has_synthetic_flag
from loradet.datasets.readers.yolo_description import coco_head
from loradet.errors import UserError
from loradet.export.classes import Classes
from loradet.weight_classes import WeightClasses, read_weight_classes

logger = logging.getLogger(__name__)

__all__ = ["Classes", "find_classes"]


def find_classes(cfg: DictConfig, checkpoint: str | Path, num_classes: int) -> Classes:
    """Class names and category ids of a detector: those that its weights came with.

    Where the config's data are on this machine, or it names classes, these are compared. Of weights that do not say
    what they are of (older ones), the first of these tells it: the annotation file `data.train_json` or the YOLO
    description `data.data_yaml` (in the order of `data.classes`); `data.classes`, with ids from 1. Without any of them
    the classes are `class 1`, `class 2` …

    Args:
        cfg: of the training.
        checkpoint: of the detector.
        num_classes: of the detector.

    Raises:
        ValueError: the weights' names and the config's differ; the names are of another number of classes, or the file
            does not have them.
    """
    truth, synthetic = _categories(cfg)
    weights = read_weight_classes(checkpoint)
    told = _of_config(cfg, truth)
    if weights is not None:
        names, ids, source = list(weights.names), list(weights.ids), str(checkpoint)
        if told is not None:
            _compare(weights, told, source)
    elif told is not None:
        names, ids, source = told
        logger.warning(
            "%s does not say its classes: those of %s are taken for them, in their order.", checkpoint, source
        )
    else:
        names, ids, source = [f"class {i}" for i in range(1, num_classes + 1)], [], "the config"
    if len(names) != num_classes:
        raise UserError(f"{source} names {len(names)} classes ({', '.join(names)}), the model has {num_classes}.")
    return Classes(names, ids or list(range(1, num_classes + 1)), synthetic)


def _compare(weights: WeightClasses, told: tuple[list[str], list[int], str], source: str) -> None:
    names, ids, where = told
    if sorted(names) != sorted(weights.names):
        raise UserError(
            f"{source} was trained on the classes {', '.join(weights.names)}; {where} has {', '.join(names)}. Take the "
            "config that it was trained with, or choose its classes by data.classes."
        )
    today = [dict(zip(names, ids)).get(name) for name in weights.names]
    if tuple(names) != weights.names or (weights.ids and ids and today != list(weights.ids)):
        logger.warning(
            "%s numbers its classes otherwise than %s today: the answers have those of the weights (%s).",
            *(
                source,
                where,
                ", ".join(f"{name} {i}" for name, i in zip(weights.names, weights.ids)) or "in their order",
            ),
        )


def _of_config(cfg: DictConfig, truth: dict[str, int] | None) -> tuple[list[str], list[int], str] | None:
    """Names, ids and what tells them; [] for ids that are not known."""
    wanted = [str(name) for name in (cfg.get("data") or {}).get("classes") or []]
    if truth is None:
        return (wanted, [], "data.classes") if wanted else None
    source = str(cfg.data.get("train_json") or cfg.data.data_yaml)
    names = wanted or list(truth)
    if missing := [name for name in names if name not in truth]:
        raise UserError(f"data.classes has {', '.join(missing)}; {source} has {', '.join(truth)}.")
    return names, [truth[name] for name in names], source


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
            return {one["name"]: one["id"] for one in head["categories"]}, has_synthetic_flag(head)
    except FileNotFoundError:
        pass
    return None, False
