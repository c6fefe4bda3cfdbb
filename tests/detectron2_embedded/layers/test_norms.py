"""Normalisation layers."""

import pytest
import torch
from detectron2.layers import CNNBlockBase, Conv2d, CycleBatchNormList, FrozenBatchNorm2d, NaiveSyncBatchNorm, get_norm
from detectron2.layers.batch_norm import LayerNorm
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


# Detectron2 0.6 (main of 2026-06-06) refuses the counter of batches in a strict loading.
@pytest.mark.subset
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
    block.conv.norm.num_batches_tracked += 7
    keys = list(block.state_dict())
    assert block.freeze() is block
    assert isinstance(block.conv.norm, FrozenBatchNorm2d) and isinstance(block.deeper[0], FrozenBatchNorm2d)
    assert isinstance(block.deeper[1], nn.GroupNorm)
    assert not any(p.requires_grad for p in block.parameters())
    # The counters stay in the file, and in a strict loading.
    assert list(block.state_dict()) == keys and block.conv.norm.num_batches_tracked == 7
    block.load_state_dict(Block().freeze().state_dict(), strict=True)
    assert block.conv.norm.num_batches_tracked == 0
    assert "num_batches_tracked" not in FrozenBatchNorm2d(4).state_dict()


@pytest.mark.subset
def test_a_norm_without_statistics_cannot_be_frozen():
    with pytest.raises(ValueError, match="track_running_stats"):
        FrozenBatchNorm2d.convert_frozen_batchnorm(nn.BatchNorm2d(4, track_running_stats=False))


def test_a_frozen_norm_becomes_trainable_again():
    norm = trained_norm()
    block = nn.Sequential(nn.Conv2d(3, 4, 1), FrozenBatchNorm2d.convert_frozen_batchnorm(norm))
    again = FrozenBatchNorm2d.convert_frozenbatchnorm2d_to_batchnorm2d(block)
    assert again is block and type(block[1]) is nn.BatchNorm2d and block[1].eps == norm.eps
    assert list(block[1].state_dict()) == list(norm.state_dict())
    for name, value in norm.state_dict().items():
        assert torch.equal(block[1].state_dict()[name], value), name
    assert all(parameter.requires_grad for parameter in block.parameters())
    assert type(FrozenBatchNorm2d.convert_frozenbatchnorm2d_to_batchnorm2d(FrozenBatchNorm2d(4))) is nn.BatchNorm2d


def test_the_oldest_files_have_no_statistics():
    """Caffe2's, for instance: a plain dict of weight and bias loads strictly, and the statistics are 0 and 1."""
    frozen = FrozenBatchNorm2d.convert_frozen_batchnorm(trained_norm())
    frozen.num_batches_tracked = None
    frozen.load_state_dict({"weight": torch.full((4,), 2.0), "bias": torch.ones(4)}, strict=True)
    x = torch.randn(1, 4, 2, 2)
    torch.testing.assert_close(frozen(x), 2 * x / (1 + 1e-3) ** 0.5 + 1)
    state = FrozenBatchNorm2d(4).state_dict()  # of today's version: what is missing is an error
    del state["running_mean"]
    with pytest.raises(RuntimeError, match="running_mean"):
        frozen.load_state_dict(state, strict=True)


# Detectron2 0.6 (main of 2026-06-06) resets the statistics by a file that has nothing of the norm, an adapter's.
@pytest.mark.subset
def test_a_partial_file_without_the_norm_leaves_it_alone():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), FrozenBatchNorm2d.convert_frozen_batchnorm(trained_norm()))
    before = net[1].running_mean.clone()
    net.load_state_dict({"0.weight": torch.zeros(4, 3, 1, 1)}, strict=False)
    assert torch.equal(net[1].running_mean, before) and not net[0].weight.any()


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
    assert norms[0].running_mean.abs().max() < 2 < norms[1].running_mean.min()
    assert sorted(name for name, _ in norms.named_parameters()) == ["bias", "weight"]
    assert isinstance(norms, nn.ModuleList) and len(norms) == 2
    assert [name for name in norms.state_dict() if "running" in name] == [
        f"{i}.running_{part}" for i in range(2) for part in ("mean", "var")
    ]
    plain = CycleBatchNormList(3, num_features=3, affine=False)
    assert len(plain) == 3 and not list(plain.parameters())


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("BN", nn.BatchNorm2d),
        ("SyncBN", nn.SyncBatchNorm),
        ("nnSyncBN", nn.SyncBatchNorm),
        ("naiveSyncBN", NaiveSyncBatchNorm),
        ("naiveSyncBN_N", NaiveSyncBatchNorm),
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
    with pytest.raises(KeyError):
        get_norm("frozen", 32)


@pytest.mark.subset
def test_an_unknown_norm_is_answered_with_the_known_ones():
    with pytest.raises(KeyError, match=r"'frozen'.*FrozenBN"):
        get_norm("frozen", 32)
