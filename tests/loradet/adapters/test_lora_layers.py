import copy

import pytest
import torch
import torch.nn.functional as F
from helpers.adapter_nets import randomize_deltas
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from loradet.adapters import LoRAConv2d, LoRALinear, merge, unmerge
from loradet.adapters.lowrank_dropout import dropout_conv2d, dropout_linear

CONVOLUTIONS = {
    "1x1": dict(kernel_size=1),
    "3x3": dict(kernel_size=3, padding=1),
    "strided": dict(kernel_size=(3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)),
    "same": dict(kernel_size=3, padding="same", dilation=2),
    "same_even": dict(kernel_size=(4, 2), padding="same"),
    "valid": dict(kernel_size=3, padding="valid"),
    "reflect": dict(kernel_size=3, padding=1, padding_mode="reflect"),
    "depthwise": dict(kernel_size=7, padding=3, groups=6),
    "depthwise_multiplier": dict(kernel_size=3, padding=1, groups=6, out_channels=12, bias=False),
}


def conv(name: str, **more) -> nn.Conv2d:
    return nn.Conv2d(**{"in_channels": 6, "out_channels": 6, **CONVOLUTIONS[name], **more})


def wrapped(base: nn.Module, **options) -> nn.Module:
    """A LoRA layer on a copy of `base`."""
    kind = LoRALinear if isinstance(base, nn.Linear) else LoRAConv2d
    return kind.from_base(copy.deepcopy(base), **{"rank": 3, "alpha": 6.0, **options})


def reference_delta(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """(alpha / rank) B A x, A as a layer of its own, written out for each kind."""
    scaling = layer.alpha / layer.rank
    if isinstance(layer, nn.Linear):
        return scaling * (x @ layer.lora_a.T) @ layer.lora_b.T
    plain = nn.Conv2d(
        layer.in_channels,
        layer.rank if layer.groups == 1 else layer.out_channels,
        layer.kernel_size,
        layer.stride,
        layer.padding,
        layer.dilation,
        layer.groups,
        bias=False,
        padding_mode=layer.padding_mode,
    ).to(x.dtype)
    if layer.groups == 1:
        plain.weight.data = layer.lora_a.data
        return scaling * F.conv2d(plain(x), layer.lora_b)
    kernels = [sum(b * a for b, a in zip(row.flatten(), layer.lora_a)) for row in layer.lora_b]
    plain.weight.data = torch.stack(kernels).data
    return scaling * plain(x)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("freeze_base", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_step_zero_of_a_linear_layer_is_the_base_bit_for_bit(bias, freeze_base, dtype, autocast):
    base = nn.Linear(96, 40, bias=bias).to(dtype)
    layer = wrapped(base, freeze_base=freeze_base)
    contiguous = torch.randn(2, 5, 7, 96, dtype=dtype)
    strided = torch.randn(2, 96, 5, 7, dtype=dtype).permute(0, 2, 3, 1)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        for x in (contiguous, strided, contiguous[0, 0], contiguous[0, 0, 0]):
            assert torch.equal(base(x), layer(x))
            assert layer(x).dtype == base(x).dtype


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("autocast", [False, True])
def test_step_zero_of_a_convolution_is_the_base_bit_for_bit(name, autocast):
    base = conv(name)
    layer = wrapped(base)
    x = torch.randn(2, 6, 9, 11)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        for y in (x, x.to(memory_format=torch.channels_last), x[0]):
            assert torch.equal(base(y), layer(y))


@pytest.mark.parametrize("base", [nn.Linear(6, 5), *map(conv, CONVOLUTIONS)], ids=["linear", *CONVOLUTIONS])
def test_forward_and_merged_forward_follow_the_formula(base):
    base = copy.deepcopy(base).double()
    layer = randomize_deltas(wrapped(base)).eval()
    x = torch.randn(2, 4, 6).double() if isinstance(base, nn.Linear) else torch.randn(2, 6, 9, 11).double()
    expected = base(x) + reference_delta(layer, x)
    assert not torch.allclose(expected, base(x))
    torch.testing.assert_close(layer(x), expected)
    merge(layer)
    torch.testing.assert_close(layer(x), expected)
    unmerge(layer)
    assert torch.equal(layer.weight, base.weight)


def test_factors_start_as_published():
    base = nn.Linear(64, 32)
    torch.manual_seed(3)
    expected = nn.init.kaiming_uniform_(torch.empty(16, 64), a=5**0.5)
    torch.manual_seed(3)
    layer = LoRALinear.from_base(base, rank=16, alpha=1.0)
    assert torch.equal(layer.lora_a, expected) and not layer.lora_b.any()


@pytest.mark.parametrize(
    "base, shape_a, shape_b",
    [
        (nn.Linear(6, 5), (3, 6), (5, 3)),
        (nn.Conv2d(6, 5, (3, 1)), (3, 6, 3, 1), (5, 3, 1, 1)),
        (nn.Conv2d(6, 12, 7, groups=6), (3, 1, 7, 7), (12, 3, 1, 1)),
    ],
)
def test_a_wrapped_layer_keeps_its_face_and_its_tensors(base, shape_a, shape_b):
    weight, bias = base.weight, base.bias
    calls = []
    base.register_forward_hook(lambda *_: calls.append(1))
    layer = (LoRALinear if isinstance(base, nn.Linear) else LoRAConv2d).from_base(base, rank=3, alpha=1.0)
    assert layer is base and layer.weight is weight and layer.bias is bias
    assert list(layer.state_dict()) == ["weight", "bias", "lora_a", "lora_b"]
    assert layer.lora_a.shape == shape_a and layer.lora_b.shape == shape_b
    assert layer.lora_a.requires_grad and layer.lora_b.requires_grad and not weight.requires_grad
    assert "rank=3" in repr(layer)
    layer(torch.randn(1, 6) if isinstance(base, nn.Linear) else torch.randn(1, 6, 8, 8))
    assert calls


def test_layers_can_be_built_directly_and_load_a_base_checkpoint():
    base = nn.Linear(6, 5)
    layer = LoRALinear(6, 5, rank=2, alpha=4.0)
    report = layer.load_state_dict(base.state_dict(), strict=False)
    assert report.missing_keys == ["lora_a", "lora_b"] and not report.unexpected_keys
    x = torch.randn(3, 6)
    assert torch.equal(layer(x), base(x))
    built = LoRAConv2d(6, 6, 3, padding=1, groups=6, rank=2, alpha=4.0)
    assert built(torch.randn(1, 6, 4, 4)).shape == (1, 6, 4, 4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_factors_take_the_dtype_of_the_base_and_merging_adds_in_float32(dtype):
    layer = randomize_deltas(wrapped(nn.Linear(64, 8).to(dtype), rank=4))
    assert layer.lora_a.dtype == dtype
    accumulate = torch.promote_types(dtype, torch.float32)
    delta = (layer.lora_b.to(accumulate) @ layer.lora_a.to(accumulate)) * (6.0 / 4)
    expected = (layer.weight.to(accumulate) + delta).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):  # merging does not take part in it
        merge(layer)
    assert torch.equal(layer.weight, expected) and layer.weight.dtype == dtype


def test_merging_keeps_channels_last():
    layer = wrapped(conv("3x3").to(memory_format=torch.channels_last))
    merge(layer)
    assert layer.weight.is_contiguous(memory_format=torch.channels_last)


def test_merged_layers_save_and_load_as_if_they_were_not():
    base = conv("3x3")
    layer = randomize_deltas(wrapped(base)).eval()
    before = copy.deepcopy(layer.state_dict())
    x = torch.randn(1, 6, 5, 5)
    expected = layer(x)
    merge(layer)
    merge(layer)
    assert all(torch.equal(before[k], v) for k, v in layer.state_dict().items())
    layer.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)
    fresh = wrapped(conv("3x3")).eval()
    fresh.load_state_dict(layer.state_dict())
    assert torch.equal(fresh(x), expected)
    moved = copy.deepcopy(layer).double()
    unmerge(moved)
    assert torch.equal(moved.weight, base.weight.double())


def test_training_while_merged_is_an_error():
    layer = merge(wrapped(nn.Linear(4, 4)))
    layer.train()
    with pytest.raises(RuntimeError, match="unmerge"):
        layer(torch.randn(2, 4))
    with torch.no_grad():
        layer(torch.randn(2, 4))
    layer.eval()(torch.randn(2, 4))


def test_dropout_acts_on_the_low_rank_path_alone_and_in_train_mode_alone():
    base = nn.Linear(512, 8)
    layer = randomize_deltas(wrapped(base, dropout=0.5))
    x = torch.ones(4, 512)
    layer.train()
    assert not torch.equal(layer(x), layer(x))
    nn.init.zeros_(layer.lora_b)
    assert torch.equal(layer(x), base(x))
    layer.eval()
    randomize_deltas(layer)
    assert torch.equal(layer(x), layer(x))


@given(
    p=st.floats(0.0, 0.9),
    shape=st.sampled_from([(6,), (5, 6), (2, 3, 6)]),
    seed=st.integers(0, 100),
)
@settings(max_examples=20, deadline=None)
def test_dropout_linear_is_dropout_then_linear(p, shape, seed):
    x, w = torch.randn(shape, dtype=torch.double), torch.randn(4, 6, dtype=torch.double)
    torch.manual_seed(seed)
    y = dropout_linear(x, w, p)
    torch.manual_seed(seed)
    keep = torch.empty(shape, dtype=torch.bool).bernoulli_(1 - p)
    torch.testing.assert_close(y, F.linear(x * keep / (1 - p), w))


def gradcheckable(function):
    """The same mask in every evaluation."""

    def run(*inputs):
        torch.manual_seed(0)
        return function(*inputs)

    return run


def test_gradients_of_dropout_linear():
    x, w = (torch.randn(s, dtype=torch.double, requires_grad=True) for s in ((2, 3, 4), (5, 4)))
    run = gradcheckable(lambda x, w: dropout_linear(x, w, 0.4))
    assert torch.autograd.gradcheck(run, (x, w))
    assert torch.autograd.gradgradcheck(run, (x, w))


@pytest.mark.parametrize("groups, out", [(1, 3), (4, 8)])
def test_gradients_of_dropout_conv2d(groups, out):
    x = torch.randn(2, 4, 5, 5, dtype=torch.double, requires_grad=True)
    w = torch.randn(out, 4 // groups, 3, 2, dtype=torch.double, requires_grad=True)
    run = gradcheckable(lambda x, w: dropout_conv2d(x, w, 0.4, (2, 1), (1, 0), (1, 2), groups))
    assert torch.autograd.gradcheck(run, (x, w))
    assert torch.autograd.gradgradcheck(run, (x, w))


@pytest.mark.parametrize("name", ["3x3", "depthwise", "same_even"])
def test_gradients_of_a_whole_convolution_with_dropout(name):
    layer = randomize_deltas(wrapped(conv(name).double(), dropout=0.3, freeze_base=False)).train()
    parameters = dict(layer.named_parameters())

    def run(x, *values):
        torch.manual_seed(0)
        return torch.func.functional_call(layer, dict(zip(parameters, values)), x)

    x = torch.randn(1, 6, 4, 4, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(run, (x, *parameters.values()), fast_mode=True)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_no_gradient(dropout, reentrant):
    layer = randomize_deltas(wrapped(nn.Linear(6, 5), dropout=dropout)).train()
    gradients = []
    for checkpointed in (False, True):
        layer.zero_grad()
        torch.manual_seed(0)
        x = torch.randn(4, 6, requires_grad=True)
        if checkpointed:
            y = torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=reentrant)
        else:
            y = layer(x)
        y.square().sum().backward()
        gradients.append([x.grad, layer.lora_a.grad, layer.lora_b.grad])
    for plain, again in zip(*gradients):
        assert plain.abs().sum() > 0
        torch.testing.assert_close(plain, again)


@pytest.mark.parametrize("base", [nn.Linear(6, 6), conv("3x3"), conv("depthwise")], ids=["linear", "3x3", "depthwise"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_layers_compile(base, dropout):
    layer = randomize_deltas(wrapped(base, dropout=dropout)).train()
    compiled = torch.compile(copy.deepcopy(layer), backend="aot_eager")
    x = torch.randn(3, 6) if isinstance(base, nn.Linear) else torch.randn(2, 6, 7, 7)
    y = compiled(x)
    y.square().mean().backward()
    gradients = [p.grad for n, p in compiled.named_parameters() if "lora" in n]
    assert len(gradients) == 2 and all(g is not None and g.isfinite().all() for g in gradients)
    if not dropout:
        torch.testing.assert_close(y, layer(x))


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(rank=0), "rank=0"),
        (dict(rank=-1), "rank=-1"),
        (dict(rank=2.5), "rank=2.5"),
        (dict(rank=True), "rank=True"),
        (dict(alpha=0), "alpha=0"),
        (dict(alpha=float("inf")), "alpha=inf"),
        (dict(dropout=1.0), "dropout=1.0"),
        (dict(dropout=-0.1), "dropout=-0.1"),
    ],
)
def test_numbers_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        wrapped(nn.Linear(4, 4), **change)
    with pytest.raises(ValueError, match=message):
        LoRALinear(4, 4, **{"rank": 2, "alpha": 1.0, **change})


def test_grouped_convolutions_are_refused():
    with pytest.raises(ValueError, match="groups=2 with 6 input channels"):
        wrapped(nn.Conv2d(6, 6, 3, groups=2))
    with pytest.raises(ValueError, match="groups=3"):
        LoRAConv2d(6, 6, 3, groups=3, rank=2, alpha=1.0)
