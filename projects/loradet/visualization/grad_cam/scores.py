"""The score of each detection of an image as a function of the feature map that it was made from."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.meta_arch.dense_detector import permute_to_N_HWA_K
from detectron2.modeling.meta_arch.retinanet import RetinaNet
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels
from detectron2.modeling.roi_heads import CascadeROIHeads, StandardROIHeads
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers, fast_rcnn_inference
from detectron2.structures import Boxes, ImageList, Instances
from torch import nn

from loradet.detectors.detr import DETR, padding_mask
from loradet.errors import UserError

ENCODER = "encoder"  # the one map of a DETR: what its decoder reads


@dataclass(frozen=True)
class ScoredDetections:
    """What a detector found in one image, and the graph from maps to scores, or where a transformer has looked.

    Attributes:
        detections: R of them by falling score, in pixels of the model's input, not clipped.
        levels: name of the map that each was made from.
        log_odds: R scalars, log(p / (1 - p)) of each score p, with a graph that begins at `maps`; none of a DETR.
        maps: (1, C, H, W) by name.
        attention: of a DETR, R times (H, W): how much of its attention a detection's query gives to each cell.
    """

    detections: Instances
    levels: tuple[str, ...]
    log_odds: tuple[torch.Tensor, ...] = ()
    maps: Mapping[str, torch.Tensor] = field(default_factory=dict)
    attention: tuple[torch.Tensor, ...] = ()


def level_names(model: nn.Module) -> list[str]:
    """Names of the maps that a detector makes its detections from.

    Raises:
        ValueError: it is neither a RetinaNet, nor an R-CNN with standard or cascaded heads, nor a DETR.
    """
    if isinstance(model, RetinaNet):
        return list(model.head_in_features)
    if isinstance(model, GeneralizedRCNN) and isinstance(model.roi_heads, StandardROIHeads):
        return list(model.roi_heads.box_in_features)
    if isinstance(model, DETR):
        return [ENCODER]
    kind = type(model).__name__
    if isinstance(model, GeneralizedRCNN):
        kind += f" with {type(model.roi_heads).__name__}"
    raise UserError(
        "Grad-CAM is for RetinaNet, for R-CNNs with StandardROIHeads or CascadeROIHeads, and for DETR; "
        f"this model is a {kind}."
    )


def scored_detections(
    model: nn.Module,
    images: ImageList,
    *,
    levels: Sequence[str],
    top: int,
    score_threshold: float = 0.0,
    class_index: int | None = None,
) -> ScoredDetections:
    """Detections of one image with the graph of their scores; nothing before the maps is in it.

    Args:
        model: in eval mode.
        images: a batch of one, as `model.preprocess_image` gives it.
        levels: only detections made from these maps.
        top: only so many, the best.
        score_threshold: only with this score or more.
        class_index: only of this class.
    """
    with torch.no_grad():
        features = model.backbone(images.tensor)
    wanted = _Wanted(levels, top, score_threshold, class_index)
    if isinstance(model, RetinaNet):
        return _of_retinanet(model, images, features, wanted)
    if isinstance(model, DETR):
        return _of_detr(model, images, features, wanted)
    return _of_rcnn(model, images, features, wanted)


@dataclass(frozen=True)
class _Wanted:
    levels: Sequence[str]
    top: int
    score_threshold: float
    class_index: int | None

    def choose(self, found: Instances, levels: Sequence[str]) -> list[int]:
        """Places of the detections that are asked about, the best first."""
        order = found.scores.argsort(descending=True, stable=True).tolist()
        labels, scores = found.pred_classes.tolist(), found.scores.tolist()
        kept = [
            place
            for place in order
            if levels[place] in self.levels
            and scores[place] >= self.score_threshold
            and self.class_index in (None, labels[place])
        ]
        return kept[: self.top]


def _leaves(features: dict[str, torch.Tensor], names: Sequence[str]) -> dict[str, torch.Tensor]:
    """The maps as the beginnings of graphs."""
    return {name: features[name].detach().requires_grad_() for name in names}


def _log_odds(probability: torch.Tensor) -> torch.Tensor:
    """Of probabilities in float64, which holds those next to 1 that float32 rounds to it."""
    return torch.logit(probability, eps=1e-15)


def _of_retinanet(model: RetinaNet, images: ImageList, features: dict, wanted: _Wanted) -> ScoredDetections:
    maps = _leaves(features, model.head_in_features)
    predictions = model.head(list(maps.values()))
    logits = [permute_to_N_HWA_K(level, model.num_classes)[0] for level in predictions[0]]
    with torch.no_grad():
        # An installed Detectron2 turns logits into scores in place.
        copies = [[level.detach().clone() for level in kind] for kind in predictions]
        found = model.forward_inference(images, list(maps.values()), copies)[0]
        sources = _sources(model, list(maps.values()), logits, predictions[1], found)
    names = [model.head_in_features[level] for level, _ in sources]
    kept = wanted.choose(found, names)
    labels = found.pred_classes.tolist()
    # The logit of a sigmoid is the log-odds of its value.
    log_odds = [logits[sources[place][0]][sources[place][1], labels[place]] for place in kept]
    return ScoredDetections(found[kept], tuple(names[place] for place in kept), tuple(log_odds), maps)


def _sources(
    model: RetinaNet,
    maps: list[torch.Tensor],
    logits: Sequence[torch.Tensor],
    deltas: Sequence[torch.Tensor],
    found: Instances,
) -> list[tuple[int, int]]:
    """Level and anchor of each detection."""
    anchors = model.anchor_generator(maps)
    boxes = [
        model.box2box_transform.apply_deltas(permute_to_N_HWA_K(delta, 4)[0], anchor.tensor)
        for delta, anchor in zip(deltas, anchors)
    ]
    places = [(level, anchor) for level, of_level in enumerate(boxes) for anchor in range(len(of_level))]
    boxes, scores = torch.cat(boxes), torch.cat([level.float().sigmoid() for level in logits])
    sources = []
    for box, score, label in zip(found.pred_boxes.tensor, found.scores, found.pred_classes.tolist()):
        # Inference does not tell which anchor a detection comes from: it is the one with the same box and score.
        distance = (boxes - box).abs().amax(dim=1) + (scores[:, label] - score).abs()
        sources.append(places[int(distance.argmin())])
    return sources


def _of_rcnn(model: GeneralizedRCNN, images: ImageList, features: dict, wanted: _Wanted) -> ScoredDetections:
    heads = model.roi_heads
    maps = _leaves(features, heads.box_in_features)
    with torch.no_grad():
        proposals, _ = model.proposal_generator(images, features, None)
        outcome = _second_stage(heads, maps, proposals[0].proposal_boxes, images.image_sizes[0])
        last = _predictors(heads)[-1]
        (found,), (rows,) = fast_rcnn_inference(
            [outcome.boxes],
            [outcome.scores.float()],
            images.image_sizes[:1],
            last.test_score_thresh,
            last.test_nms_thresh,
            last.test_topk_per_image,
        )
    names = [heads.box_in_features[level] for level in _pooled_levels(heads.box_pooler, outcome.pooled[rows])]
    kept = wanted.choose(found, names)
    scores: torch.Tensor | tuple = ()
    if kept:
        # Again for these proposals alone, now with a graph.
        chosen = proposals[0].proposal_boxes[rows[kept]]
        again = _second_stage(heads, maps, chosen, images.image_sizes[0])
        scores = _log_odds(again.scores[torch.arange(len(kept)), found.pred_classes[kept].cpu()])
    return ScoredDetections(found[kept], tuple(names[place] for place in kept), tuple(scores), maps)


@dataclass(frozen=True)
class _SecondStage:
    """Boxes (R, 4 or 4 K), scores (R, K + 1) in float64, and the boxes (R) that the last stage has pooled."""

    boxes: torch.Tensor
    scores: torch.Tensor
    pooled: Boxes


def _predictors(heads: StandardROIHeads) -> list[FastRCNNOutputLayers]:
    return list(heads.box_predictor) if isinstance(heads, CascadeROIHeads) else [heads.box_predictor]


def _second_stage(
    heads: StandardROIHeads, maps: dict[str, torch.Tensor], pooled: Boxes, image_size: tuple[int, int]
) -> _SecondStage:
    """What the box head makes of proposals, or the heads of a cascade one after the other."""
    box_heads = list(heads.box_head) if isinstance(heads, CascadeROIHeads) else [heads.box_head]
    scores, boxes = [], pooled.tensor
    for number, (head, predictor) in enumerate(zip(box_heads, _predictors(heads))):
        if number:
            pooled = Boxes(boxes.detach().clone())
            pooled.clip(image_size)
        logits, deltas = predictor(head(heads.box_pooler(list(maps.values()), [pooled])))
        proposals = [Instances(image_size, proposal_boxes=pooled)]
        (boxes,) = predictor.predict_boxes((logits, deltas), proposals)
        scores += predictor.predict_probs((logits.double(), deltas), proposals)
    return _SecondStage(boxes, sum(scores) / len(scores), pooled)


def _pooled_levels(pooler: ROIPooler, boxes: Boxes) -> list[int]:
    if len(boxes) == 0:
        return []
    sizes = pooler.canonical_box_size, pooler.canonical_level
    return assign_boxes_to_levels([boxes], pooler.min_level, pooler.max_level, *sizes).tolist()


def _of_detr(model: DETR, images: ImageList, features: dict, wanted: _Wanted) -> ScoredDetections:
    features = features[model.in_feature]
    padded = tuple(images.tensor.shape[-2:])
    padding = padding_mask(images.image_sizes, padded, features.shape[-2:], model.device)
    is_padded = any(tuple(size) != padded for size in images.image_sizes)
    with torch.no_grad(), _attention_calls(model) as calls:
        logits, boxes = model.predict(features, padding, is_padded=is_padded)
    found = model.detections(logits[-1], boxes[-1], images.image_sizes)[0]
    kept = wanted.choose(found, [ENCODER] * len(found))
    with torch.no_grad():
        # (Q, cells) of each layer, the mean over its heads
        weights = [attention(*call, **{**options, "need_weights": True})[1][0] for attention, call, options in calls]
    heats = torch.stack(weights).mean(0)[kept].unflatten(1, features.shape[-2:])
    return ScoredDetections(found[kept], (ENCODER,) * len(kept), attention=tuple(heats.float().cpu()))


@contextmanager
def _attention_calls(model: DETR) -> Iterator[list[tuple[nn.Module, tuple, dict]]]:
    """What the decoder's attentions to the cells are called with inside the block, layer by layer."""
    calls: list[tuple[nn.Module, tuple, dict]] = []
    hooks = [
        layer.multihead_attn.register_forward_pre_hook(
            lambda module, call, options: calls.append((module, call, options)), with_kwargs=True
        )
        for layer in model.transformer.decoder.layers
    ]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()
