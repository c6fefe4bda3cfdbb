"""NMS, losses and blocks of convolutions, against numbers recorded from Detectron2."""

from pathlib import Path

import pytest
import torch
from detectron2.layers import ASPP, DepthwiseSeparableConv2d, batched_nms
from fvcore.nn import giou_loss, sigmoid_focal_loss, smooth_l1_loss
from helpers.golden_files import close, load
from torch import nn

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


def blocks(golden_d2: Path):
    """Every recorded block as its seed makes it, and what was recorded of it."""
    meta, arrays = load(golden_d2 / "aspp.npz")
    for case, spec in meta["cases"].items():
        arguments = {k: v for k, v in spec.items() if k != "layer"}
        recorded = {k.removeprefix(f"{case}/"): v for k, v in arrays.items() if k.startswith(f"{case}/")}
        torch.manual_seed(meta["seed"])
        # An activation with a parameter, so that one that is shared shows.
        activation = nn.PReLU(init=0.1)
        if spec["layer"] == "ASPP":
            module = ASPP(**arguments, activation=activation)
        else:
            first = nn.PReLU(init=0.1) if "norm1" in spec else None
            module = DepthwiseSeparableConv2d(**arguments, activation1=first, activation2=activation)
        yield module, arrays["x"], recorded, meta["keys"][case], meta["grads"][case]


def test_names_and_first_weights_of_blocks(golden_d2: Path):
    for module, _, recorded, keys, _ in blocks(golden_d2):
        state = module.state_dict()
        assert list(state) == keys
        for name, value in state.items():
            if value.is_floating_point():
                close(value, recorded[f"init/{name}"])


def test_outputs_and_gradients_of_blocks(golden_d2: Path):
    for module, x, recorded, _, gradients in blocks(golden_d2):
        y = module.train()(x)
        close(y, recorded["train"])
        (y * torch.arange(y.numel()).cos().view_as(y)).sum().backward()
        assert {name for name, _ in module.named_parameters()} == set(gradients)
        for name, parameter in module.named_parameters():
            flat = parameter.grad.double().flatten()
            along = float(flat @ torch.arange(len(flat), dtype=torch.float64).cos())
            assert along == pytest.approx(gradients[name], rel=1e-4, abs=1e-4), name
        close(module.eval()(x), recorded["eval"])
