"""Names of Caffe2's ImageNet ResNets (MSRA's R-50.pkl and the like) in the terms of `modeling.backbone`."""

import re
from collections.abc import Mapping

import torch

__all__ = ["convert_c2_resnet_names"]

_BRANCHES = {"branch1": "shortcut", "branch2a": "conv1", "branch2b": "conv2", "branch2c": "conv3"}
_SUFFIXES = {
    "_bn_running_mean": ".norm.running_mean",
    "_bn_running_var": ".norm.running_var",
    "_bn_riv": ".norm.running_var",
    "_bn_rm": ".norm.running_mean",
    "_bn_s": ".norm.weight",
    "_bn_b": ".norm.bias",
    "_bn_gamma": ".norm.weight",
    "_bn_beta": ".norm.bias",
    "_w": ".weight",
    "_b": ".bias",
}
_DETECTOR_PREFIXES = ("conv_rpn", "rpn_", "retnet", "bbox_pred", "cls_score")
_BLOCK = re.compile(r"res(\d)_(\d+)_(branch1|branch2[abc])(_.*)")
_STEM = re.compile(r"(?:res_)?conv1(_.*)")
_CLASSIFIER = re.compile(r"(?:pred|fc1000)(_[wb])")


def convert_c2_resnet_names(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename the weights of a ResNet classifier.

    Args:
        weights: by Caffe2 name, as `res2_0_branch2a_w`.

    Returns:
        The weights as `res2.0.conv1.weight`, `stem.conv1.weight`, `linear.weight`. Running statistics that
        the file lacks (they are folded into scale and bias) are added as mean 0, variance 1.

    Raises:
        NotImplementedError: the file is a detector of Detectron (Caffe2).
    """
    renamed: dict[str, torch.Tensor] = {}
    for name, weight in weights.items():
        if name.startswith(_DETECTOR_PREFIXES) or "fpn" in name:
            raise NotImplementedError(
                f"The file is a detector of Detectron (Caffe2) ({name!r}); only its ImageNet backbones are "
                "read here. An installed Detectron2 reads it: save its state dict from there as .pth."
            )
        renamed[_rename(name)] = weight
    for key in [key for key in renamed if key.endswith(".norm.weight")]:
        norm = key.removesuffix("weight")
        renamed.setdefault(f"{norm}running_mean", torch.zeros_like(renamed[key]))
        renamed.setdefault(f"{norm}running_var", torch.ones_like(renamed[key]))
    return renamed


def _rename(name: str) -> str:
    if block := _BLOCK.fullmatch(name):
        stage, index, branch, suffix = block.groups()
        return f"res{stage}.{index}.{_BRANCHES[branch]}{_SUFFIXES.get(suffix, suffix)}"
    if stem := _STEM.fullmatch(name):
        return f"stem.conv1{_SUFFIXES.get(stem[1], stem[1])}"
    if classifier := _CLASSIFIER.fullmatch(name):
        return f"linear{_SUFFIXES[classifier[1]]}"
    return name
