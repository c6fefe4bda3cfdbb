"""What the LoRA layers keep for backward, in bytes, beside what full fine-tuning of the same layer keeps."""

import copy

import pytest
import torch
from helpers.adapter_nets import saved_bytes
from torch import nn

from loradet.adapters import LoRAConv2d, LoRALinear

RANK = 4


def channels_first(*shape: int) -> torch.Tensor:
    return torch.randn(shape, requires_grad=True)


CASES = {
    "linear": (lambda: nn.Linear(64, 96), lambda: channels_first(2, 50, 64), 2 * 50 * RANK),
    "linear without bias": (lambda: nn.Linear(64, 96, bias=False), lambda: channels_first(2, 50, 64), 2 * 50 * RANK),
    "linear on permuted input": (
        lambda: nn.Linear(64, 96),
        lambda: channels_first(2, 64, 5, 10).permute(0, 2, 3, 1),
        2 * 50 * RANK,
    ),
    "conv 1x1": (lambda: nn.Conv2d(64, 96, 1), lambda: channels_first(2, 64, 8, 8), 2 * 64 * RANK),
    "conv 3x3": (lambda: nn.Conv2d(64, 96, 3, padding=1), lambda: channels_first(2, 64, 8, 8), 2 * 64 * RANK),
    "conv 3x3 channels_last": (
        lambda: nn.Conv2d(64, 96, 3, padding=1).to(memory_format=torch.channels_last),
        lambda: channels_first(2, 64, 8, 8).to(memory_format=torch.channels_last),
        2 * 64 * RANK,
    ),
    "conv reflect": (
        lambda: nn.Conv2d(64, 96, 3, padding=1, padding_mode="reflect"),
        lambda: channels_first(2, 64, 8, 8),
        2 * 64 * RANK,
    ),
    "depthwise": (
        lambda: nn.Conv2d(64, 64, 7, padding=3, groups=64),
        lambda: channels_first(2, 64, 8, 8),
        0,
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("freeze_base", [True, False], ids=["frozen", "trainable"])
@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "autocast"])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_no_second_copy_of_the_input_is_kept(case, freeze_base, autocast, dropout):
    build, build_input, rank_sized = CASES[case]
    full = build()
    kind = LoRALinear if isinstance(full, nn.Linear) else LoRAConv2d
    layer = kind.from_base(copy.deepcopy(full), rank=RANK, alpha=8.0, dropout=dropout, freeze_base=freeze_base).train()
    x = build_input()
    element = 2 if autocast else 4
    # Casts of the factors (and their product, as large as a depthwise kernel) are as small as parameters.
    factors = element * (layer.lora_a.numel() + layer.lora_b.numel())
    if kind is LoRAConv2d and layer.depthwise:
        factors += 2 * element * layer.weight.numel()
    # One byte an element; the mask is drawn after padding where padding is explicit.
    mask = 0 if not dropout else x.numel() if "reflect" not in case else 2 * 64 * 10 * 10
    allowed = saved_bytes(full, x, autocast) + rank_sized * element + mask + factors
    assert saved_bytes(layer, x, autocast) <= allowed
    assert factors < element * x.numel()  # the allowance could not hide another copy of the input
