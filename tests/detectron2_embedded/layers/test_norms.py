"""Normalisation layers."""

import pytest
import torch
from detectron2.layers import CNNBlockBase, Conv2d, CycleBatchNormList, FrozenBatchNorm2d, LayerNorm, get_norm
from torch import nn


def trained_norm(channels: int = 4) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, eps=1e-3)
    for tensor in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(tensor)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    return norm


def test_frozen_norm_equals_evaluation_of_a_trained_one():
    norm = trained_norm().eval()
    frozen = FrozenBatchNorm2d.convert_frozen_batchnorm(norm).train()
    x = torch.randn(2, 4, 3, 5)
    expected = norm(x)
    torch.testing.assert_close(frozen(x), expected)

    first, second = x.clone().requires_grad_(), x.clone().requires_grad_()
    weights = torch.randn_like(x)
    (norm(first) * weights).sum().backward()
    (frozen(second) * weights).sum().backward()
    torch.testing.assert_close(frozen(second), expected)
    torch.testing.assert_close(second.grad, first.grad)
    assert not list(frozen.parameters())


def test_frozen_norm_keeps_only_its_scale_for_backward():
    frozen = FrozenBatchNorm2d(4)
    x = torch.randn(2, 4, 32, 32, requires_grad=True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()), lambda t: t):
        frozen(x)
    assert sum(saved) < x.numel() / 10


def test_a_fresh_frozen_norm_is_the_identity():
    x = torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(FrozenBatchNorm2d(4)(x), x)


def test_frozen_norm_keeps_the_dtype():
    x = torch.randn(1, 4, 2, 2, dtype=torch.bfloat16)
    assert FrozenBatchNorm2d(4)(x.requires_grad_()).dtype == torch.bfloat16


def test_frozen_norm_loads_the_state_of_a_trainable_one():
    norm, frozen = trained_norm(), FrozenBatchNorm2d(4, eps=1e-3)
    frozen.load_state_dict(norm.state_dict(), strict=True)
    x = torch.randn(1, 4, 2, 2)
    torch.testing.assert_close(frozen(x), norm.eval()(x))


def test_freezing_a_block_converts_its_norms():
    class Block(CNNBlockBase):
        def __init__(self):
            super().__init__(3, 4, 1)
            self.conv = Conv2d(3, 4, 1, norm=trained_norm())
            self.deeper = nn.Sequential(nn.SyncBatchNorm(4), nn.GroupNorm(2, 4))

    block = Block()
    keys = [k for k in block.state_dict() if "num_batches_tracked" not in k]
    assert block.freeze() is block
    assert isinstance(block.conv.norm, FrozenBatchNorm2d) and isinstance(block.deeper[0], FrozenBatchNorm2d)
    assert isinstance(block.deeper[1], nn.GroupNorm)
    assert not any(p.requires_grad for p in block.parameters())
    assert list(block.state_dict()) == keys


def test_a_norm_without_statistics_cannot_be_frozen():
    with pytest.raises(ValueError, match="track_running_stats"):
        FrozenBatchNorm2d.convert_frozen_batchnorm(nn.BatchNorm2d(4, track_running_stats=False))


def test_layer_norm_works_on_channels():
    norm = LayerNorm(6)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(2, 6, 3, 4)
    mean, variance = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False)
    expected = (x - mean) / (variance + norm.eps).sqrt() * norm.weight[:, None, None] + norm.bias[:, None, None]
    torch.testing.assert_close(norm(x), expected)
    assert not isinstance(norm, nn.LayerNorm)


def test_cycling_norms_keep_statistics_for_each_level():
    norms = CycleBatchNormList(2, num_features=3)
    small, large = torch.randn(4, 3, 5, 5), 10 + 3 * torch.randn(4, 3, 5, 5)
    expected = [nn.BatchNorm2d(3)(x) for x in (small, large)]
    for _ in range(3):
        for x, wanted in zip((small, large), expected):
            torch.testing.assert_close(norms(x), wanted)
    assert norms.bns[0].running_mean.abs().max() < 2 < norms.bns[1].running_mean.min()
    assert sorted(name for name, _ in norms.named_parameters()) == ["bias", "weight"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("BN", nn.BatchNorm2d),
        ("SyncBN", nn.SyncBatchNorm),
        ("FrozenBN", FrozenBatchNorm2d),
        ("GN", nn.GroupNorm),
        ("LN", LayerNorm),
        (nn.InstanceNorm2d, nn.InstanceNorm2d),
    ],
)
def test_norms_by_name(name, kind):
    norm = get_norm(name, 32)
    assert type(norm) is kind
    assert norm.eval()(torch.randn(1, 32, 2, 2)).shape == (1, 32, 2, 2)


def test_no_norm_and_unknown_norms():
    assert get_norm("", 32) is None and get_norm(None, 32) is None
    with pytest.raises(KeyError, match="FrozenBN"):
        get_norm("frozen", 32)
