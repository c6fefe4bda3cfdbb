"""Published Vision Mamba checkpoints, read for detection."""

import argparse
import logging
import math
import os
import re

import torch
from torch import Tensor, nn

from loradet.adapters.filled import mark_loaded
from loradet.backbones.vision_mamba_position import resize_position_embedding
from loradet.backbones.weights import read_state_dict, resolve
from loradet.errors import UserError
from loradet.tensors import check_tensors
from loradet.wording import shorten

logger = logging.getLogger(__name__)

# What a classification checkpoint holds and a detection backbone has no use for.
NOT_FOR_DETECTION = re.compile(r"head\..+|rope\..+|norm_f\..+|cls_token")
CLASS_TOKEN_ROWS = ("first", "middle")


def load_vision_mamba_weights(
    net: nn.Module, weights: str | os.PathLike, grid: tuple[int, int], class_token_row: str = "first"
) -> list[str]:
    """Load a checkpoint in place and strictly, but for what only classification uses; log what was dropped.

    A file with a `cls_token` has one position embedding more than patches; that row is dropped and the others are
    resized to `grid`. A number of rows that is a square is that of a square grid, as in all published files. Any other
    must be that of `grid`: the file comes from this very backbone, on a grid that is not square.

    Args:
        net: the backbone; its `rope` tables are kept, they depend on the grid alone.
        weights: safetensors or pth file, as `loradet.backbones.weights.resolve` takes it.
        grid: rows and columns of the net's position embedding.
        class_token_row: which row of the file's embedding is dropped: "first", as the official detection code does, or
            "middle", where a class token in the middle of the sequence has its own.

    Returns:
        Names of the tensors that were dropped.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, or of another depth, width, patch size or anything else.
    """
    if class_token_row not in CLASS_TOKEN_ROWS:
        raise UserError(f"class_token_row={class_token_row!r}; expected one of {', '.join(CLASS_TOKEN_ROWS)}.")
    path = resolve(weights)
    # Training scripts save their arguments beside the weights; a namespace is plain data.
    with torch.serialization.safe_globals([argparse.Namespace]):
        state = read_state_dict(path)
    own = {name: tensor for name, tensor in net.state_dict().items() if not name.startswith("rope.")}
    dropped = [name for name in state if name not in own and NOT_FOR_DETECTION.fullmatch(name)]
    kept = {name: tensor for name, tensor in state.items() if name in own}
    kept_or_dropped = {*kept, *dropped}
    _check_architecture(path, kept, own, [name for name in state if name not in kept_or_dropped])

    rows = kept["pos_embed"]
    if "cls_token" in state:
        place = 0 if class_token_row == "first" else (rows.shape[1] - 1) // 2
        rows = torch.cat((rows[:, :place], rows[:, place + 1 :]), 1)
        dropped.append(f"pos_embed[:, {place}]")
    kept["pos_embed"] = _fitted(rows, own["pos_embed"], grid, path)
    check_tensors(kept, path, own)
    net.load_state_dict(net.state_dict() | kept)
    mark_loaded(net, kept)
    logger.info("%s: loaded; not used for detection: %s", path, ", ".join(dropped) or "nothing")
    return dropped


def _check_architecture(path: os.PathLike, kept: dict[str, Tensor], own: dict[str, Tensor], foreign: list[str]) -> None:
    """Compare what the file's tensors say of the network with the network; name each difference by its argument."""
    found, wanted = _architecture({**kept, **dict.fromkeys(foreign)}), _architecture(own)
    problems = [
        f"{name} is {found[name]} there and {wanted[name]} here"
        for name in wanted
        if name in found and found[name] != wanted[name]
    ]
    if not problems:
        missing = [name for name in own if name not in kept]
        shapes = [
            f"{name} {tuple(tensor.shape)} instead of {tuple(own[name].shape)}"
            for name, tensor in kept.items()
            # Rows of the position embedding are fitted later.
            if (name != "pos_embed" and tensor.shape != own[name].shape)
            or (name == "pos_embed" and (tensor.dim() != 3 or tensor.shape[2] != own[name].shape[2]))
        ]
        kinds = {"missing": missing, "unexpected": foreign, "other shape": shapes}
        problems = [f"{kind}: {shorten(names)}" for kind, names in kinds.items() if names]
    if problems:
        raise UserError(f"{path} does not hold the weights of this VisionMamba; {'; '.join(problems)}.")


def _architecture(state: dict[str, Tensor | None]) -> dict[str, int]:
    """Constructor arguments that names and shapes tell."""
    layers = [int(found.group(1)) for name in state if (found := re.match(r"layers\.(\d+)\.", name))]
    patch, log = state.get("patch_embed.proj.weight"), state.get("layers.0.mixer.A_log")
    told = {"depth": max(layers) + 1} if layers else {}
    if patch is not None and patch.dim() == 4:
        told |= {"embed_dim": patch.shape[0], "in_chans": patch.shape[1], "patch_size": patch.shape[2]}
    if log is not None and log.dim() == 2:
        told |= {"d_state": log.shape[1]}
    return told


def _fitted(rows: Tensor, own: Tensor, grid: tuple[int, int], path: os.PathLike) -> Tensor:
    edge = math.isqrt(rows.shape[1])
    is_square = rows.dim() == 3 and edge > 0 and edge * edge == rows.shape[1]
    if rows.shape == own.shape and (grid == (edge, edge) or not is_square):
        return rows
    if not is_square:
        raise UserError(
            f"{path}: pos_embed has {rows.shape[1]} rows for patches, which is no square grid; expected a square, or "
            f"the {own.shape[1]} rows of the grid {grid[0]}×{grid[1]} of this VisionMamba (img_size)."
        )
    # As many rows on another grid: whoever saved this very backbone there gets what they do not want.
    level = logging.WARNING if rows.shape == own.shape else logging.INFO
    logger.log(level, "%s: pos_embed resized from %d×%d to %d×%d", path, edge, edge, *grid)
    return resize_position_embedding(rows, (edge, edge), grid)
