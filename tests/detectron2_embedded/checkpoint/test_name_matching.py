"""Names of weights: Caffe2's in Detectron2's terms, and those that lack a model's prefix.

Results as those of Detectron2 0.6, main of 2026-06-06.
"""

import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.checkpoint.c2_model_loading import (
    align_and_update_state_dicts,
    convert_basic_c2_names,
    convert_c2_detectron_names,
)
from torch import nn

BACKBONE = {
    "conv1_w": "stem.conv1.weight",
    "conv1_b": "stem.conv1.bias",
    "conv1_bn_s": "stem.conv1.norm.weight",
    "res_conv1_bn_s": "stem.conv1.norm.weight",
    "res_conv1_bn_b": "stem.conv1.norm.bias",
    "res2_0_branch1_w": "res2.0.shortcut.weight",
    "res2_0_branch2a_w": "res2.0.conv1.weight",
    "res3_1_branch2b_bn_rm": "res3.1.conv2.norm.running_mean",
    "res3_1_branch2b_bn_riv": "res3.1.conv2.norm.running_var",
    "res4_22_branch2c_bn_running_mean": "res4.22.conv3.norm.running_mean",
    "res4_22_branch2c_bn_running_var": "res4.22.conv3.norm.running_var",
    "res5_2_branch2c_bn_gamma": "res5.2.conv3.norm.weight",
    "res5_2_branch2c_bn_beta": "res5.2.conv3.norm.bias",
    "res5_2_branch2c_gn_s": "res5.2.conv3.norm.weight",
    "res5_2_branch2c_gn_b": "res5.2.conv3.norm.bias",
    "pred_w": "linear.weight",
    "pred_b": "linear.bias",
    "fc1000_w": "fc1000.weight",
}

DETECTOR = {
    "conv_rpn_fpn2_w": "proposal_generator.rpn_head.conv.weight",
    "conv_rpn_b": "proposal_generator.rpn_head.conv.bias",
    "rpn_bbox_pred_fpn2_w": "proposal_generator.rpn_head.anchor_deltas.weight",
    "rpn_bbox_pred_b": "proposal_generator.rpn_head.anchor_deltas.bias",
    "rpn_cls_logits_fpn2_w": "proposal_generator.rpn_head.objectness_logits.weight",
    "rpn_cls_logits_b": "proposal_generator.rpn_head.objectness_logits.bias",
    "fc6_w": "box_head.fc1.weight",
    "fc7_b": "box_head.fc2.bias",
    "head_conv1_w": "box_head.conv1.weight",
    "head_conv4_gn_s": "box_head.conv4.norm.weight",
    "bbox_pred_w": "bbox_pred.weight",
    "cls_score_b": "cls_score.bias",
    "fpn_inner_res5_2_sum_w": "fpn_lateral5.weight",
    "fpn_inner_res4_5_sum_lateral_w": "fpn_lateral4.weight",
    "fpn_inner_res3_3_sum_lateral_gn_s": "fpn_lateral3.norm.weight",
    "fpn_res2_2_sum_b": "fpn_output2.bias",
    "fpn_res3_3_sum_gn_b": "fpn_output3.norm.bias",
    "mask_fcn_logits_w": "mask_head.predictor.weight",
    "_[mask]_fcn1_w": "mask_head.mask_fcn1.weight",
    "conv5_mask_b": "mask_head.deconv.bias",
    "conv_fcn3_w": "roi_heads.keypoint_head.conv_fcn3.weight",
    "kps_score_lowres_w": "roi_heads.keypoint_head.score_lowres.weight",
    "retnet_cls_conv_n0_fpn3_w": "retnet.cls.conv.n0.fpn3.weight",
}


def test_names_of_backbones() -> None:
    assert convert_basic_c2_names(list(BACKBONE)) == list(BACKBONE.values())


def test_names_of_detectors() -> None:
    weights = {name: torch.full((5, 1), float(i)) for i, name in enumerate(DETECTOR)}
    found, originals = convert_c2_detectron_names(weights)
    assert originals == {new: old for old, new in DETECTOR.items()}
    assert found.keys() == originals.keys()
    for new, old in originals.items():
        assert found[new].max() == weights[old].max()
    with pytest.raises(AssertionError):
        convert_c2_detectron_names({"conv1_bn_s": torch.ones(1), "res_conv1_bn_s": torch.ones(1)})


def test_the_background_class_moves() -> None:
    rows = torch.arange(12.0)[:, None]
    found, _ = convert_c2_detectron_names({"cls_score_w": rows[:3], "bbox_pred_w": rows, "mask_fcn_logits_b": rows[:3]})
    assert found["cls_score.weight"].flatten().tolist() == [1, 2, 0]
    assert found["bbox_pred.weight"].flatten().tolist() == [4, 5, 6, 7, 8, 9, 10, 11]
    assert found["mask_head.predictor.bias"].flatten().tolist() == [1, 2]


def state(**sizes: int) -> dict[str, torch.Tensor]:
    """Weights by name ("__" stands for "."), each of its own value."""
    return {name.replace("__", "."): torch.full((size,), float(i + 1)) for i, (name, size) in enumerate(sizes.items())}


def matched(model: dict, weights: dict, c2_conversion: bool = False) -> dict[str, float]:
    found = align_and_update_state_dicts(model, weights, c2_conversion=c2_conversion)
    return {name: value[0].item() for name, value in found.items()}


def test_the_longest_ending_counts() -> None:
    model = state(net__res2__conv__w=2, net__conv__w=2, stem__conv__w=2)
    with pytest.raises(ValueError):
        # conv.w would go to net and to stem.
        matched(model, state(res2__conv__w=2, conv__w=2))
    del model["stem.conv.w"]
    assert matched(model, state(res2__conv__w=2, conv__w=2)) == {"net.conv.w": 2, "net.res2.conv.w": 1}


def test_parts_of_names_are_whole() -> None:
    assert matched(state(a__myconv=2), state(conv=2)) == {"conv": 1}
    assert matched(state(a__conv=2), state(b__a__conv=2)) == {"b.a.conv": 1}
    assert matched(state(conv=2), state(conv=2)) == {"conv": 1}


def test_what_fits_nowhere_keeps_its_name(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="detectron2"):
        found = matched(state(m__b=2, m__a=3, m__c=2), state(other=2, b=2, a=4, c=2))
    # The model's keys first, in alphabetical order.
    assert list(found.items()) == [("m.b", 2), ("m.c", 4), ("a", 3), ("other", 1)]
    assert "m.a" in caplog.text


def test_no_match_at_all(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="detectron2"):
        assert matched(state(m__b=2), state(z=2, y=2)) == {"z": 1, "y": 2}
    assert any(record.levelname == "WARNING" for record in caplog.records)


@pytest.mark.subset  # an IndexError in Detectron2 0.6
def test_no_weights_at_all() -> None:
    assert matched(state(m__b=2), {}) == {}


def test_caffe2_names_are_the_default() -> None:
    model = {"backbone.res2.0.conv1.weight": torch.zeros(2)}
    found = align_and_update_state_dicts(model, {"res2_0_branch2a_w": torch.ones(2)})
    assert list(found) == ["backbone.res2.0.conv1.weight"]


def test_a_detector_of_caffe2(tmp_path: Path) -> None:
    class Predictor(nn.Module):
        def __init__(self):
            super().__init__()
            self.cls_score = nn.Linear(2, 3)
            self.bbox_pred = nn.Linear(2, 8)

    model = nn.Module()
    model.roi_heads = nn.Module()
    model.roi_heads.box_predictor = Predictor()
    blobs = {
        "cls_score_w": np.arange(6, dtype=np.float32).reshape(3, 2),
        "cls_score_b": np.zeros(3, np.float32),
        "bbox_pred_w": np.arange(24, dtype=np.float32).reshape(12, 2),
        "bbox_pred_b": np.zeros(12, np.float32),
        "bbox_pred_b_momentum": np.ones(12, np.float32),
    }
    (tmp_path / "model_final.pkl").write_bytes(pickle.dumps({"blobs": blobs}, protocol=2))
    DetectionCheckpointer(model).load(str(tmp_path / "model_final.pkl"))
    predictor = model.roi_heads.box_predictor
    assert predictor.cls_score.weight.tolist() == [[2, 3], [4, 5], [0, 1]]
    assert predictor.bbox_pred.weight.flatten().tolist() == list(range(8, 24))


@pytest.mark.subset
def test_an_ambiguous_weight_is_named() -> None:
    with pytest.raises(ValueError, match=r"'conv\.w'.*'one\.conv\.w'.*'two\.conv\.w'"):
        matched(state(one__conv__w=2, two__conv__w=2), state(conv__w=2))
