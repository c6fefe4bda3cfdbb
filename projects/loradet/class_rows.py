"""Rows of a detector's class head by class name, to keep them under other classes."""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from loradet.adapters.layer import join
from loradet.wording import shorten

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClassRows:
    """How a tensor's first axis is made of classes: groups x classes x rows of a class, then rows of none.

    Attributes:
        name: of the tensor in the state dict.
        groups: anchors at a place, each of which has all classes.
        each: rows of a class in a group.
        rest: rows behind those of all classes, as "background" or "no object".
    """

    name: str
    groups: int = 1
    each: int = 1
    rest: int = 0

    def classes(self, tensor: Tensor) -> int | None:
        """How many classes the rows are of; None where they do not come out even."""
        count, odd = divmod(len(tensor) - self.rest, self.groups * self.each)
        return None if odd or count < 1 else count

    def moved(
        self, there: Tensor, names_there: Sequence[str], here: Tensor, names_here: Sequence[str]
    ) -> Tensor | None:
        """`here` with the rows of the classes that both have, by name, and those of none, taken from `there`.

        None where the two differ in more than classes.
        """
        fits = self.classes(there) == len(names_there) and self.classes(here) == len(names_here)
        if not fits or there.shape[1:] != here.shape[1:]:
            return None
        result = here.detach().cpu().clone()
        end = len(result) - self.rest
        rows, source = (
            t[: len(t) - self.rest].unflatten(0, (self.groups, len(names), self.each))
            for t, names in ((result, names_here), (there, names_there))
        )
        for place, name in enumerate(names_here):
            if name in names_there:
                rows[:, place] = source[:, names_there.index(name)].to(rows.dtype)
        if self.rest:
            result[end:] = there[len(there) - self.rest :].to(result.dtype)
        return result


def class_rows(model: nn.Module) -> Iterator[ClassRows]:
    """The tensors of a detector whose rows are classes: heads of RetinaNet, FCOS, R-CNNs, DETR and transformers' ones.

    A DETR whose columns are mapped to categories (`categories`) has rows of its own meaning, and none is given.
    """
    for path, module in model.named_modules():
        kinds = {base.__name__ for base in type(module).__mro__}
        if "FastRCNNOutputLayers" in kinds:
            yield from _tensors(module, path, "cls_score", rest=1)
            if not _is_class_agnostic(module):
                yield from _tensors(module, path, "bbox_pred", each=module.bbox_pred.out_features // module.num_classes)
        elif kinds & {"RetinaNetHead", "FCOSHead"}:
            yield from _tensors(module, path, "cls_score", groups=_anchors(module))
        elif "DETR" in kinds and getattr(module, "categories", None) is None:
            yield from _tensors(module, path, "class_embed", rest=1)
        elif "TransformersDetector" in kinds:
            yield from _of_library(module, path)


def _of_library(module: nn.Module, path: str) -> Iterator[ClassRows]:
    for name in module.state_dict():
        # Queries of noisy labels have a row of "no object" besides.
        if found := re.search(r"\b(?:class_embed|enc_out_class_embed|enc_score_head|denoising_class_embed)\b", name):
            yield ClassRows(join(path, name), rest=int(found[0].startswith("denoising")))


def _tensors(module: nn.Module, path: str, layer: str, **layout: int) -> Iterator[ClassRows]:
    owner = getattr(module, layer, None)
    if isinstance(owner, nn.Module):
        for name in ("weight", "bias"):
            if getattr(owner, name, None) is not None:
                yield ClassRows(join(path, f"{layer}.{name}"), **layout)


def _is_class_agnostic(module: nn.Module) -> bool:
    classes, box = module.num_classes, module.box2box_transform.weights
    return classes > 1 and module.bbox_pred.out_features <= len(box)


def _anchors(module: nn.Module) -> int:
    # Each anchor has four numbers of a box.
    return module.bbox_pred.out_channels // 4


def published_rows_by_name(model: nn.Module, names: Sequence[str]) -> None:
    """Put the rows of class heads that came with published weights where the data have those classes, in place.

    Published weights of as many classes as the data have are loaded by position. Where the classes are the same in
    another order, the rows are moved; where some are others, they stay, and a warning names both.

    Args:
        model: a detector; only one with `published_classes` is changed.
        names: classes of the data, in order.
    """
    theirs, names = getattr(model, "published_classes", None), tuple(names)
    if not theirs or theirs == names or len(theirs) != len(names):
        return
    if sorted(theirs) == sorted(names) and len(set(names)) == len(names):
        model.load_state_dict(keep_rows_by_name(model, model.state_dict(), theirs, names), strict=False)
        model.published_classes = names
        logger.info("Rows of the published class heads were put in the order of the data's classes, by name.")
        return
    logger.warning(
        "Class heads start from published rows by position, and their classes have other names: the file's are %s, the "
        "data's %s. What the rows know of one class begins as the other.",
        shorten(list(theirs), 20),
        shorten(list(names), 20),
    )


def keep_rows_by_name(
    model: nn.Module, state: Mapping[str, Tensor], names_there: Sequence[str], names_here: Sequence[str]
) -> dict[str, Tensor]:
    """The tensors of a file that hold classes, made those of a model: rows of classes that both have, by name.

    Rows of classes that the file does not know keep the model's start.

    Args:
        model: in its state at the start.
        state: of the file, by the model's names.
        names_there, names_here: classes of the file and of the model, in order.

    Returns:
        New tensors by name, of the model's shapes; {} where no tensor of both holds these classes.
    """
    own = model.state_dict()
    found = {}
    for rows in class_rows(model):
        if isinstance(there := state.get(rows.name), torch.Tensor) and rows.name in own:
            moved = rows.moved(there, list(names_there), own[rows.name], list(names_here))
            if moved is not None:
                found[rows.name] = moved
    return found
