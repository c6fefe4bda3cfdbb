"""Weights of Caffe2 models (Detectron, and MSRA's R-50.pkl and the like), and weights that lack a prefix."""

import logging
import re
from collections.abc import Iterable, Mapping

import torch
from detectron2.checkpoint.matching import match_by_suffix

__all__ = ["align_and_update_state_dicts", "convert_basic_c2_names", "convert_c2_detectron_names"]

logger = logging.getLogger(__name__)

# Regular expressions on names whose "_" became ".", and what takes the place of what they match; in this order.
_ENDINGS = [
    (r"\.b$", ".bias"),
    (r"\.w$", ".weight"),
    (r"bn\.(s|gamma)$", "norm.weight"),
    (r"bn\.(bias|beta)$", "norm.bias"),
    (r"bn\.(rm|running\.mean)$", "norm.running_mean"),
    (r"bn\.(riv|running\.var)$", "norm.running_var"),
    (r"gn\.s$", "norm.weight"),
    (r"gn\.bias$", "norm.bias"),
]
_BACKBONE = [
    (r"^res\.conv1\.norm\.", "conv1.norm."),
    # The stem's convolution, as opposed to those of heads.
    (r"^conv1\.", "stem.conv1."),
    (r"\.branch1\.", ".shortcut."),
    (r"\.branch2a\.", ".conv1."),
    (r"\.branch2b\.", ".conv2."),
    (r"\.branch2c\.", ".conv3."),
]
_RPN = "proposal_generator.rpn_head."
_HEADS = [
    # With an FPN these lie at its second level, which all levels share.
    (r"conv\.rpn(\.fpn2)?", f"{_RPN}conv"),
    (r"rpn\.bbox\.pred(\.fpn2)?", f"{_RPN}anchor_deltas"),
    (r"rpn\.cls\.logits(\.fpn2)?", f"{_RPN}objectness_logits"),
    (r"^bbox\.pred", "bbox_pred"),
    (r"^cls\.score", "cls_score"),
    (r"^fc6\.", "box_head.fc1."),
    (r"^fc7\.", "box_head.fc2."),
    (r"^head\.conv", "box_head.conv"),
    # Masks and keypoints, so that their names mean nothing else.
    (r"\.\[mask\]\.fcn|^\.mask\.fcn", "mask_head.mask_fcn"),
    (r"mask\.fcn\.logits", "mask_head.predictor"),
    (r"conv5\.mask", "mask_head.deconv"),
    (r"conv\.fcn", "roi_heads.keypoint_head.conv_fcn"),
    (r"kps\.score\.lowres", "roi_heads.keypoint_head.score_lowres"),
    (r"kps\.score\.", "roi_heads.keypoint_head.score."),
]
_FPN = re.compile(r"fpn\.(?P<lateral>inner\.)?res(?P<stage>\d+)\.(?P<rest>.+)")


def convert_basic_c2_names(original_keys: Iterable[str]) -> list[str]:
    """Names of a Caffe2 backbone in the terms of `modeling.backbone`, in the same order.

    `res2_0_branch2a_w` becomes `res2.0.conv1.weight`, `conv1_w` `stem.conv1.weight`, `pred_w` `linear.weight`.
    """
    return [_basic_name(key) for key in original_keys]


def _basic_name(key: str) -> str:
    if key in ("pred_b", "pred_w"):
        key = key.replace("pred", "linear")
    return _rewrite(key.replace("_", "."), _ENDINGS + _BACKBONE)


def _rewrite(name: str, rules: list[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _detector_name(key: str) -> str:
    name = _rewrite(_basic_name(key), _HEADS)
    if found := _FPN.fullmatch(name):
        parts = found["rest"].split(".")
        kind = "lateral" if found["lateral"] else "output"
        return f"fpn_{kind}{found['stage']}{'.norm' if 'norm' in parts else ''}.{parts[-1]}"
    return name


def convert_c2_detectron_names(
    weights: Mapping[str, torch.Tensor],
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Weights of a Caffe2 backbone or detector under Detectron2's names.

    The background class, which Detectron puts first, goes last in classifiers, and out of box regressors and
    mask predictors.

    Args:
        weights: by Caffe2 name.

    Returns:
        The weights by new name, and the Caffe2 names by new name.

    Raises:
        AssertionError: two names become one.
    """
    originals = {_detector_name(key): key for key in sorted(weights)}
    assert len(originals) == len(weights), "Several of the Caffe2 names become one name of Detectron2."
    logger.info("Renamed %d weights of a Caffe2 model.", len(originals))
    return {name: _without_background(name, weights[key]) for name, key in originals.items()}, originals


def _without_background(name: str, weight: torch.Tensor) -> torch.Tensor:
    if name.startswith("cls_score."):
        return torch.cat([weight[1:], weight[:1]])
    if name.startswith("bbox_pred."):
        return weight[4:]
    return weight[1:] if name.startswith("mask_head.predictor.") else weight


def align_and_update_state_dicts(
    model_state_dict: Mapping[str, torch.Tensor],
    ckpt_state_dict: Mapping[str, torch.Tensor],
    c2_conversion: bool = True,
) -> dict[str, torch.Tensor]:
    """Rename weights to the model's keys that end in their names, as `matching.match_by_suffix` says.

    Results are those of Detectron2, except that a file without any weight gives {} and no error.

    Args:
        model_state_dict: of the model.
        ckpt_state_dict: of the file.
        c2_conversion: its names are Caffe2's, and renamed by `convert_c2_detectron_names` first.

    Returns:
        The weights under the model's keys, and those that fit nowhere under their own names.

    Raises:
        ValueError: two keys of the model match the same weight.
    """
    if c2_conversion:
        ckpt_state_dict, _ = convert_c2_detectron_names(ckpt_state_dict)
    return match_by_suffix(model_state_dict, ckpt_state_dict)
