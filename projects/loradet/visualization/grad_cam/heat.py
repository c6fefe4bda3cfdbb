"""Where in an image each detection comes from: HiResCAM (https://arxiv.org/abs/2011.08891), or DETR's attention."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.structures import Instances
from torch import nn
from torch.nn import functional as F

from loradet.errors import UserError
from loradet.visualization.grad_cam.scores import ENCODER, level_names, scored_detections
from loradet.visualization.loaded_split import evaluation_mode


@dataclass(frozen=True)
class DetectionHeat:
    """What speaks for one detection.

    Attributes:
        level: name of the map that the detection was made from.
        heat: (H, W) of that map, in 0..1; zero everywhere where no place speaks for the detection.
    """

    level: str
    heat: torch.Tensor


@dataclass(frozen=True)
class ImageHeat:
    """The detections asked about, and the heat of each.

    Attributes:
        detections: by falling score, in pixels of the model's input; `heat_index` is the place of each in `heats`,
            which it keeps where other detections are taken away.
        heats: one for each.
        padded_size: (height, width) of the padded input that the maps cover.
        image_size: (height, width) of the image in its upper left corner.
    """

    detections: Instances
    heats: tuple[DetectionHeat, ...]
    padded_size: tuple[int, int]
    image_size: tuple[int, int]

    def on_image(self, index: int, height: int, width: int) -> torch.Tensor:
        """The heat of a detection without the padding, (height, width), by bilinear interpolation."""
        heat = self.heats[index].heat[None, None]
        padded = F.interpolate(heat, size=self.padded_size, mode="bilinear", align_corners=False)
        image = padded[:, :, : self.image_size[0], : self.image_size[1]]
        resized = F.interpolate(image, size=(height, width), mode="bilinear", align_corners=False)
        return resized[0, 0].clamp(0.0, 1.0)


def is_attention(model: nn.Module) -> bool:
    """Whether heat is where a transformer looks, and not what speaks for a score."""
    return level_names(model) == [ENCODER]


def method_of(model: nn.Module) -> str:
    """How the heat of a model's detections is found, and the paper."""
    if is_attention(model):
        return "cross-attention of the decoder, https://arxiv.org/abs/2005.12872"
    return "HiResCAM, https://arxiv.org/abs/2011.08891"


def check_levels(model: nn.Module, levels: Sequence[str] | None) -> list[str]:
    """The levels to look at, all where None is given.

    Raises:
        ValueError: the model is of a kind that is not known here, or has no such levels; those that it has get named.
    """
    there = level_names(model)
    if levels is None:
        return there
    absent = [level for level in levels if level not in there]
    if absent or not levels:
        raise UserError(
            f"Grad-CAM: the model has no level {', '.join(map(repr, absent)) or 'of an empty list'}; "
            f"it has {', '.join(there)}."
        )
    return list(levels)


def grad_cam(
    model: nn.Module,
    inputs: Mapping[str, Any],
    levels: Sequence[str] | None = None,
    *,
    class_index: int | None = None,
    top: int = 5,
    score_threshold: float = 0.0,
) -> ImageHeat:
    """The heat of each of the best detections of an image, on the map that it was made from.

    With A (C, H, W) that map and y the log-odds of the detection's score, the heat is relu(sum_c dy/dA_c · A_c) divided
    by its maximum: gradients weigh each location by itself. (Grad-CAM averages them over all locations first, and so
    shows places that had no part in the detection.)

    The map is, of a RetinaNet, the level of the anchor; of an R-CNN, the level that the box of the (last) stage was
    pooled from. Of a DETR the heat is where its decoder looks: the attention that the detection's query gives to the
    cells of the encoder's map, the mean over heads and layers. (There a cell knows of the whole image, and its values
    say little of its own place.)

    The model is left as it was: mode, parameters, `requires_grad` and gradients; it may be frozen, have LoRA, or be
    merged.

    Args:
        model: a RetinaNet, a Faster or Cascade R-CNN, or a DETR.
        inputs: the image's dict, as the model takes it in a list.
        levels: names of maps (`p3` …); detections made from others are left out. None: all.
        class_index: contiguous id; detections of other classes are left out.
        top: how many detections.
        score_threshold: detections under it are left out.

    Raises:
        ValueError: another kind of model, no such level, no such class, or `top` is not positive.
    """
    levels = check_levels(model, levels)
    num_classes = getattr(model, "roi_heads", model).num_classes
    if top < 1:
        raise UserError(f"Grad-CAM: top={top}; expected 1 or more.")
    if class_index is not None and not 0 <= class_index < num_classes:
        raise UserError(f"Grad-CAM: class {class_index} of {num_classes}.")
    with evaluation_mode(model), torch.enable_grad():
        images = model.preprocess_image([inputs])
        scored = scored_detections(
            model, images, levels=levels, top=top, score_threshold=score_threshold, class_index=class_index
        )
        parts = scored.attention or [
            contributions(scored.maps[level], log_odds) for level, log_odds in zip(scored.levels, scored.log_odds)
        ]
    heats = tuple(DetectionHeat(level, _heat(part)) for level, part in zip(scored.levels, parts))
    found = scored.detections
    found.heat_index = torch.arange(len(found), device=found.scores.device)
    return ImageHeat(found, heats, tuple(images.tensor.shape[-2:]), tuple(images.image_sizes[0]))


def contributions(feature_map: torch.Tensor, score: torch.Tensor) -> torch.Tensor:
    """sum_c dy/dA_c · A_c, (H, W): equation 5 of HiResCAM before its relu.

    Where the score is linear in the map, these sum up to the score without its bias.

    Args:
        feature_map: A, (1, C, H, W), in the graph of the score.
        score: y, a scalar.

    Returns:
        float32 on the CPU.
    """
    (gradient,) = torch.autograd.grad(score, [feature_map], retain_graph=True)
    return (gradient[0].float() * feature_map.detach()[0].float()).sum(dim=0).cpu()


def _heat(parts: torch.Tensor) -> torch.Tensor:
    heat = parts.relu()
    highest = heat.max()
    return heat / highest if highest > 0 else heat
