"""Grad-CAM (Selvaraju et al., https://arxiv.org/abs/1610.02391) on the pyramid levels of RetinaNet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.modeling.meta_arch.retinanet import RetinaNet
from detectron2.structures import ImageList, Instances
from torch import nn
from torch.nn import functional as F

from loradet.errors import UserError

from .split import evaluation_mode


@dataclass(frozen=True)
class LevelHeat:
    """Heat of one level for one image.

    Attributes:
        heat: (H, W) of the level's map, in 0..1; zero everywhere where nothing on the map speaks for the scores.
        num_scores: how many of the scores that were asked about come from this level's own anchors.
        best_score: the highest of these, in 0..1; 0 without any.
    """

    heat: torch.Tensor
    num_scores: int
    best_score: float


@dataclass(frozen=True)
class ImageHeat:
    """Heat of all levels asked for, by name, and the model's detections.

    Attributes:
        levels: by level name.
        detections: the detections asked about, by falling score, in pixels of the model's input; with `class_index`
            all of that class.
        padded_size: (height, width) of the padded input that the maps cover.
        image_size: (height, width) of the image in its upper left corner.
    """

    levels: Mapping[str, LevelHeat]
    detections: Instances
    padded_size: tuple[int, int]
    image_size: tuple[int, int]

    def on_image(self, level: str, height: int, width: int) -> torch.Tensor:
        """A level's heat without the padding, (height, width), by bilinear interpolation."""
        heat = self.levels[level].heat[None, None]
        padded = F.interpolate(heat, size=self.padded_size, mode="bilinear", align_corners=False)
        image = padded[:, :, : self.image_size[0], : self.image_size[1]]
        resized = F.interpolate(image, size=(height, width), mode="bilinear", align_corners=False)
        return resized[0, 0].clamp(0.0, 1.0)


def check_levels(model: nn.Module, levels: Sequence[str]) -> None:
    """Raise ValueError where the model is no RetinaNet, or has no such levels; those that it has get named."""
    if not isinstance(model, RetinaNet):
        raise UserError(f"Grad-CAM is for RetinaNet; this model is a {type(model).__name__}.")
    absent = [level for level in levels if level not in model.head_in_features]
    if absent or not levels:
        raise UserError(
            f"Grad-CAM: the model has no level {', '.join(map(repr, absent)) or 'of an empty list'}; "
            f"it has {', '.join(model.head_in_features)}."
        )


def grad_cam(
    model: RetinaNet,
    inputs: Mapping[str, Any],
    levels: Sequence[str],
    *,
    class_index: int | None = None,
    top: int = 5,
    score_threshold: float = 0.0,
) -> ImageHeat:
    """Where a level's map speaks for the class scores of one image.

    With A (C, H, W) the map and y a sum of logits, the heat is relu(sum_c a_c A_c), a_c the mean over all positions of
    dy/dA_c, divided by its maximum. y sums the logits of

    - the `top` best detections of the image, whatever level they come from: a level that took part in none of them
      has no heat;
    - with `class_index`, the `top` highest logits of that class on the level itself, detections or not.

    The model is left as it was: mode, parameters, `requires_grad` and gradients; it may be frozen, have LoRA, or be
    merged.

    Args:
        inputs: the image's dict, as the model takes it in a list.
        levels: names among `model.head_in_features`.
        class_index: contiguous id.
        top: how many logits to sum.
        score_threshold: detections under it are not asked about.

    Raises:
        ValueError: no RetinaNet, no such level, no such class, or `top` is not positive.
    """
    check_levels(model, levels)
    if top < 1:
        raise UserError(f"Grad-CAM: top={top}; expected 1 or more.")
    if class_index is not None and not 0 <= class_index < model.num_classes:
        raise UserError(f"Grad-CAM: class {class_index} of {model.num_classes}.")
    with evaluation_mode(model), torch.enable_grad():
        images = model.preprocess_image([inputs])
        # The graph must reach the maps even where every parameter before them is frozen.
        pixels = images.tensor.detach().requires_grad_()
        features = model.backbone(pixels)
        maps = [features[name] for name in model.head_in_features]
        predictions = model.head(maps)
        logits = [level[0] for level in model._transpose_dense_predictions(predictions, [model.num_classes, 4])[0]]
        detections, sources = _detections(model, images, maps, predictions, class_index, top, score_threshold)
        heats = {}
        for name in levels:
            place = model.head_in_features.index(name)
            if class_index is None:
                scores = [logits[level][anchor, label] for level, anchor, label in sources]
                own = [score for score, source in zip(scores, sources) if source[0] == place]
            else:
                column = logits[place][:, class_index]
                scores = own = list(column.topk(min(top, len(column))).values)
            heats[name] = LevelHeat(
                class_activation(features[name], scores),
                len(own),
                max((float(score.detach().float().sigmoid()) for score in own), default=0.0),
            )
    return ImageHeat(heats, detections, tuple(pixels.shape[-2:]), tuple(images.image_sizes[0]))


def class_activation(feature_map: torch.Tensor, scores: Sequence[torch.Tensor]) -> torch.Tensor:
    """Grad-CAM of a sum of scores, divided by its maximum.

    Args:
        feature_map: (1, C, H, W), part of the graph of the scores (or not: then there is no heat).
        scores: scalars.

    Returns:
        (H, W) in 0..1, float32 on the CPU.
    """
    gradient = None
    if scores:
        (gradient,) = torch.autograd.grad(sum(scores), [feature_map], retain_graph=True, allow_unused=True)
    if gradient is None:
        return torch.zeros(feature_map.shape[-2:])
    weights = gradient[0].float().mean(dim=(1, 2))
    heat = torch.einsum("c,chw->hw", weights, feature_map.detach()[0].float()).relu()
    highest = heat.max()
    return (heat / highest if highest > 0 else heat).cpu()


@torch.no_grad()
def _detections(
    model: RetinaNet,
    images: ImageList,
    maps: list[torch.Tensor],
    predictions: list[list[torch.Tensor]],
    class_index: int | None,
    top: int,
    score_threshold: float,
) -> tuple[Instances, list[tuple[int, int, int]]]:
    """The detections to ask about, and (level, anchor, class) of each."""
    found = model.forward_inference(images, maps, predictions)[0]
    keep = found.scores >= score_threshold
    if class_index is not None:
        keep &= found.pred_classes == class_index
    found = found[keep]
    if class_index is None:
        found = found[:top]
    logits, deltas = model._transpose_dense_predictions(predictions, [model.num_classes, 4])
    anchors = model.anchor_generator(maps)
    decoded = [model.box2box_transform.apply_deltas(delta[0], anchor.tensor) for delta, anchor in zip(deltas, anchors)]
    level_of = torch.cat([torch.full((len(level),), place) for place, level in enumerate(decoded)])
    starts = [0]
    for level in decoded:
        starts.append(starts[-1] + len(level))
    boxes, scores = torch.cat(decoded), torch.cat([level[0].float().sigmoid() for level in logits])
    sources = []
    for box, score, label in zip(found.pred_boxes.tensor, found.scores, found.pred_classes.tolist()):
        # Inference does not tell which anchor a detection comes from: it is the one with the same box and score.
        distance = (boxes - box).abs().amax(dim=1) + (scores[:, label] - score).abs()
        row = int(distance.argmin())
        level = int(level_of[row])
        sources.append((level, row - starts[level], label))
    return found, sources
