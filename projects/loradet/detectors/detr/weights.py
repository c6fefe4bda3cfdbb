"""Published DETR weights, into this DETR."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from loradet.adapters.filled import mark_loaded
from loradet.adapters.layer import adapter_tensor_names, is_under, unwrap
from loradet.backbones.weights import read_state_dict, resolve
from loradet.errors import UserError
from loradet.tensors import check_tensors
from loradet.wording import shorten

logger = logging.getLogger(__name__)

# Their shapes depend on the number of classes and of queries.
_HEADS = ("class_embed", "query_embed")


@dataclass(frozen=True)
class LoadedWeights:
    """What came out of a file and what did not.

    Attributes:
        loaded: names of tensors, in the file and in the model.
        left_out: tensors of the file that were not loaded, and why.
        missing: tensors of the model that keep their initial values.
    """

    loaded: list[str]
    left_out: dict[str, str]
    missing: list[str]


def load_detr_weights(
    model: nn.Module, weights: str | os.PathLike, *, class_rows: Sequence[int] | None = None
) -> LoadedWeights:
    """Load a file of DETR weights, such as `detr-r50-e632da11.pth`, and log what was left out.

    Class head and query embedding of another size are left out, tensors of layers that the model does not have too.
    The model's backbone may be quite another one than the file's, but not one of another depth: it is loaded whole or
    not at all. Everything else that the model has must be in the file.

    Args:
        model: a `DETR`, without or with LoRA.
        weights: pth or safetensors file.
        class_rows: rows of the file's class head to load, in order, "no object" last; `coco_categories().head_rows`
            makes 81 rows for COCO's contiguous ids out of 92. None loads all.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged or not of such a model; nothing was loaded then.
    """
    path = resolve(weights)
    state = read_state_dict(path)
    if class_rows is not None:
        state |= _rows(state, class_rows, path)
    model = unwrap(model)
    own = model.state_dict()
    left_out = {name: "not in the model" for name in state if name not in own}
    shapes = {
        name: f"{tuple(tensor.shape)} in the file, {tuple(own[name].shape)} in the model"
        for name, tensor in state.items()
        if name in own and tensor.shape != own[name].shape
    }
    deltas = adapter_tensor_names(model)
    absent = [name for name in own if name not in state and name not in deltas]
    problems = [f"{name} ({reason})" for name, reason in shapes.items() if not _is_head(name)]
    problems += [f"{name} (not in the file)" for name in absent if not is_under(name, "backbone")]
    problems += _half_a_backbone({name for name in own if name not in deltas}, set(state))
    if problems:
        raise UserError(
            f"{path} does not fit the model: {shorten(problems, 10)}. Layers and widths must be the file's."
        )
    missing = [*absent, *shapes]
    left_out |= shapes
    kept = {name: tensor for name, tensor in state.items() if name not in left_out}
    check_tensors(kept, path, own)
    model.load_state_dict(kept, strict=False)
    mark_loaded(model, kept)
    logger.info("Loaded %d tensors from %s.", len(kept), path)
    if left_out:
        logger.warning("Left out of %s: %s", path, shorten([f"{k} ({v})" for k, v in left_out.items()], 10))
    if missing:
        logger.warning("Not in %s, or of another shape, and initialised anew: %s", path, shorten(missing, 10))
    return LoadedWeights(list(kept), left_out, missing)


def _half_a_backbone(own: set[str], there: set[str]) -> list[str]:
    """What only one of two backbones has, where they share tensors: as ResNets of two depths do."""
    own, there = (
        {name for name in names if is_under(name, "backbone") and not name.endswith("num_batches_tracked")}
        for names in (own, there)
    )
    if not own & there:
        return []
    lacking = [f"{name} (not in the file)" for name in sorted(own - there)]
    return lacking + [f"{name} (not in the model)" for name in sorted(there - own)]


def _rows(state: dict[str, torch.Tensor], rows: Sequence[int], path: os.PathLike) -> dict[str, torch.Tensor]:
    heads = {name: tensor for name, tensor in state.items() if is_under(name, "class_embed")}
    for name, tensor in heads.items():
        if not all(0 <= row < len(tensor) for row in rows):
            raise UserError(f"class_rows: {name} of {path} has {len(tensor)} rows, 0..{len(tensor) - 1}.")
    return {name: tensor[list(rows)] for name, tensor in heads.items()}


def _is_head(name: str) -> bool:
    return any(is_under(name, head) for head in _HEADS)
