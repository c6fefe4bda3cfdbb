"""NMS and losses, against numbers recorded from Detectron2."""

from pathlib import Path

import pytest
import torch
from detectron2.layers import batched_nms
from fvcore.nn import giou_loss, sigmoid_focal_loss, smooth_l1_loss
from golden_files import close, load

pytestmark = pytest.mark.golden


def test_batched_nms(golden_d2: Path):
    meta, arrays = load(golden_d2 / "nms.npz")
    for name in meta["counts"]:
        inputs = [arrays[f"{name}/{part}"] for part in ("boxes", "scores", "idxs")]
        for i, threshold in enumerate(meta["iou_thresholds"]):
            assert torch.equal(batched_nms(*inputs, threshold), arrays[f"{name}/keep/{i}"])
    nothing = batched_nms(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long(), meta["iou_thresholds"][0])
    assert torch.equal(nothing, arrays["empty/keep/0"])


def test_losses_without_reduction(golden_d2: Path):
    meta, arrays = load(golden_d2 / "losses.npz")
    for case, arguments in meta["focal"].items():
        loss = sigmoid_focal_loss(arrays["logits"], arrays["targets"], **arguments)
        close(loss, arrays[f"focal/{case}"])
    for i, beta in enumerate(meta["betas"]):
        close(smooth_l1_loss(arrays["pred"], arrays["target"], beta=beta), arrays[f"smooth_l1/{i}"])
    close(giou_loss(arrays["boxes_a"], arrays["boxes_b"]), arrays["giou"])
