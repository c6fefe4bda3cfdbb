"""Variants of LoRA: their formula by brute force, step 0, sizes, merging, files, switching."""

import copy
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from helpers.adapter_nets import Backbone, Detector, same_state, seeded, state_copy
from torch import nn

from loradet.adapters import (
    AdapterBank,
    AdapterError,
    adapter_layers,
    freeze,
    load_adapter,
    lora,
    merge,
    merged_state_dict,
    save_adapter,
    unmerge,
)

VARIANTS = ["lora", "rslora", "dora", "pissa"]
BASES = {
    "linear": lambda: nn.Linear(6, 9),
    "linear without bias": lambda: nn.Linear(6, 9, bias=False),
    "conv": lambda: nn.Conv2d(6, 9, 3, stride=2, padding=1),
    "conv of 1x1": lambda: nn.Conv2d(6, 9, 1),
    "depthwise": lambda: nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=6),
}
IMAGES = torch.linspace(-2, 2, 2 * 3 * 16 * 16).view(2, 3, 16, 16)


def wrapped(base: str, variant: str, **options) -> tuple[nn.Module, nn.Module, torch.Tensor]:
    """The layer, the same with an adapter, and an input."""
    layer = seeded(0, BASES[base])
    model = lora(freeze(nn.Sequential(copy.deepcopy(layer))), ["0"], rank=3, alpha=5.0, variant=variant, **options)
    return layer, model, torch.randn(4, 6) if base.startswith("linear") else torch.randn(2, 6, 7, 5)


def trained(model: nn.Module, seed: int = 1) -> nn.Module:
    """As after training: all that trains has other values."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model


def by_formula(variant: str, base: nn.Module, layer: nn.Module, start: dict[str, torch.Tensor]) -> torch.Tensor:
    """The weight that a variant stands for, in float64."""
    weight, a, b = (value.detach().double() for value in (base.weight, layer.lora_a, layer.lora_b))
    product = (b.flatten(1) @ a.flatten(1)).view(weight.shape)
    if variant == "rslora":
        return weight + 5.0 / math.sqrt(3) * product
    if variant == "lora":
        return weight + 5.0 / 3 * product
    if variant == "pissa":
        first = start["lora_b"].double().flatten(1) @ start["lora_a"].double().flatten(1)
        return weight - 5.0 / 3 * first.view(weight.shape) + 5.0 / 3 * product
    summed = weight + 5.0 / 3 * product
    lengths = summed.flatten(1).norm(dim=1)
    return summed * (layer.lora_magnitude.detach().double() / lengths).view(-1, *[1] * (weight.dim() - 1))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("base", BASES)
def test_the_formula(base, variant):
    plain, model, x = wrapped(base, variant)
    start = {name: value.clone() for name, value in dict(model[0].named_parameters()).items()}
    if variant == "pissa":
        torch.testing.assert_close(model(x), plain(x), rtol=1e-5, atol=1e-5)
    else:
        assert torch.equal(model(x), plain(x))
    assert model[0].is_base
    trained(model)
    assert not model[0].is_base
    expected = by_formula(variant, plain, model[0], start)
    whole = copy.deepcopy(plain).double()
    whole.weight.data = expected
    torch.testing.assert_close(model(x).double(), whole(x.double()), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(merged_state_dict(model)["0.weight"].double(), expected, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        before = model.eval()(x)
        merge(model)
        torch.testing.assert_close(model(x), before, rtol=1e-5, atol=1e-5)
        unmerge(model)
        assert torch.equal(model(x), before)


def test_pissa_begins_with_the_principal_part():
    base, model, _ = wrapped("conv", "pissa")
    layer = model[0]
    product = 5.0 / 3 * layer.lora_b.flatten(1) @ layer.lora_a.flatten(1)
    u, s, v = torch.linalg.svd(base.weight.flatten(1))
    torch.testing.assert_close(product, u[:, :3] @ torch.diag(s[:3]) @ v[:3], rtol=1e-4, atol=1e-5)


def test_the_norm_of_dora_is_a_constant_in_backward():
    base, model, x = wrapped("linear", "dora")
    trained(model)
    model(x).square().sum().backward()
    layer = model[0]
    a, b, m = (value.detach().clone().requires_grad_() for value in (layer.lora_a, layer.lora_b, layer.lora_magnitude))
    summed = base.weight.detach() + 5.0 / 3 * b @ a
    weight = summed * (m / summed.detach().norm(dim=1))[:, None]
    F.linear(x, weight, base.bias.detach()).square().sum().backward()
    for ours, expected in ((layer.lora_a, a), (layer.lora_b, b), (layer.lora_magnitude, m)):
        torch.testing.assert_close(ours.grad, expected.grad, rtol=1e-4, atol=1e-5)
    assert layer.weight.grad is None


def _doubled_in_place(layer: nn.Module) -> None:
    with torch.no_grad():
        layer.weight.mul_(2)


def _replaced(layer: nn.Module) -> None:
    layer.weight.data = layer.weight.data * 2


@pytest.mark.parametrize("change", [_doubled_in_place, _replaced, lambda layer: layer.double()])
def test_the_norm_of_dora_follows_a_base_that_changes(change):
    _, model, x = wrapped("linear", "dora")
    trained(model)(x)
    change(model[0])
    x = x.to(model[0].weight.dtype)
    expected = F.linear(x, model[0].merged_state()["weight"], model[0].bias)
    again = copy.deepcopy(model)  # it has not seen the weight before
    torch.testing.assert_close(model(x), again(x), rtol=0, atol=0)
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)


def test_dora_that_was_built_for_inference_alone():
    with torch.inference_mode():
        base, model, x = wrapped("linear", "dora")
        assert torch.equal(model(x), base(x))


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameters_by_formula(variant):
    _, model, _ = wrapped("linear", variant)
    trains = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trains == 3 * (6 + 9) + (9 if variant == "dora" else 0)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_are_of_the_variant(variant, copied):
    _, model, x = wrapped("linear", variant)
    trained(model)
    twin = copied(model)
    assert torch.equal(twin(x), model(x))
    trained(twin, 2)
    assert not torch.equal(twin(x), model(x))


def build(variant: str, *, base_seed: int = 0, **options) -> Detector:
    backbone = freeze(seeded(base_seed, Backbone))
    lora(backbone, ["mlp.fc1", "conv_dw"], **{"rank": 2, "alpha": 4.0, **options}, variant=variant)
    return seeded(3, Detector, backbone, 2).eval()


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_base_may_come_after_the_wrapping(variant):
    model, base = build(variant), seeded(5, Backbone)
    model.backbone.bottom_up.load_state_dict(base.state_dict(), strict=False)
    expected = seeded(3, Detector, freeze(base), 2).eval()
    torch.testing.assert_close(model(IMAGES), expected(IMAGES), rtol=1e-4, atol=1e-5)
    assert all(layer.is_base for _, layer in adapter_layers(model))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_file_brings_all_of_it(variant, tmp_path):
    model = trained(build(variant))
    save_adapter(model, tmp_path / "a.safetensors")
    other = build(variant)
    load_adapter(other, tmp_path / "a.safetensors")
    assert torch.equal(other(IMAGES), model(IMAGES))
    assert same_state(state_copy(other), state_copy(model))
    wrong = "lora" if variant == "dora" else "dora"
    with pytest.raises(AdapterError, match=rf"variant is {variant} in the file, {wrong} in the model"):
        load_adapter(build(wrong), tmp_path / "a.safetensors")


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_bank_switches_and_brings_the_base_back(variant, tmp_path):
    for seed, options in ((1, {}), (2, {"rank": 4, "alpha": 2.0})):
        save_adapter(trained(build(variant, **options), seed), tmp_path / f"{seed}.safetensors")
    model = build(variant)
    base = model(IMAGES)
    bank = AdapterBank(model)
    for seed in (1, 2):
        bank.add(str(seed), tmp_path / f"{seed}.safetensors")
    for seed, options in ((1, {}), (2, {"rank": 4, "alpha": 2.0})):
        bank.activate(str(seed))
        assert torch.equal(model(IMAGES), trained(build(variant, **options), seed)(IMAGES))
    bank.activate(None)
    assert torch.equal(model(IMAGES), base)


def test_a_file_of_an_unknown_variant_is_refused(tmp_path):
    model = build("dora")
    model.backbone.bottom_up.adapter_recipe["lora"][0]["variant"] = "later"
    save_adapter(model, tmp_path / "a.safetensors")
    with pytest.raises(AdapterError, match=r"of variant 'later', this loradet .* has lora, rslora, dora, pissa"):
        load_adapter(build("dora"), tmp_path / "a.safetensors")


def test_another_variant_is_refused_before_anything_changes():
    net = seeded(0, Backbone)
    before = state_copy(net)
    with pytest.raises(ValueError, match=r"variant='doras'; expected one of lora, rslora, dora, pissa"):
        lora(net, ["mlp.fc1"], 2, 4.0, variant="doras")
    with pytest.raises(ValueError, match=r"is a MultiheadAttention; DoRA wraps Linear and Conv2d"):
        lora(nn.ModuleDict({"a": nn.MultiheadAttention(8, 2)}), ["a"], 2, 4.0, variant="dora")
    assert same_state(state_copy(net), before) and not hasattr(net, "adapter_recipe")


def test_ranks_and_alphas_by_pattern():
    net = freeze(seeded(0, Backbone))
    lora(net, ["mlp.fc1", "conv_dw"], 2, 4.0, ranks={"stages_1": 5, "conv_dw": 1}, alphas={"re:.*fc1": 8.0})
    sizes = {path: (layer.rank, layer.alpha) for path, layer in adapter_layers(net)}
    assert sizes == {
        "stages_0.0.conv_dw": (1, 4.0),
        "stages_0.0.mlp.fc1": (2, 8.0),
        "stages_0.1.conv_dw": (1, 4.0),
        "stages_0.1.mlp.fc1": (2, 8.0),
        "stages_1.0.conv_dw": (5, 4.0),
        "stages_1.0.mlp.fc1": (5, 8.0),
    }
    assert sorted(entry["rank"] for entry in net.adapter_recipe["lora"]) == [1, 2, 5, 5]


@pytest.mark.parametrize(
    ("patterns", "words"),
    [
        ({"stages_7": 3}, "lora: ranks: 'stages_7' names nothing here"),
        ({"stem": 3}, "lora: ranks: 'stem' names stem, in which nothing is wrapped"),
        ({"stages_1": 3, "stages_1.0": 4}, "'stages_1.0' names only layers that an earlier pattern names"),
        ({"stages_1": 0}, "rank=0"),
    ],
)
def test_patterns_that_say_nothing_are_refused(patterns, words):
    with pytest.raises(ValueError, match=words):
        lora(seeded(0, Backbone), ["mlp.fc1"], 2, 4.0, ranks=patterns)


@pytest.mark.parametrize(("kind", "names"), [("norm", {"weight", "bias"}), ("bias", {"bias"})])
def test_norms_and_biases_train_alone(kind, names):
    net = freeze(seeded(0, Backbone), [f"kind:{kind}"]).train()
    trains = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    assert {name.rpartition(".")[2] for name in trains} == names
    assert trains == {
        name for name, _ in net.named_parameters() if (".norm." in name if kind == "norm" else name.endswith("bias"))
    }
    assert not any(module.training for module in net.modules() if isinstance(module, nn.BatchNorm2d))
    assert net.adapter_recipe["freeze"]["unfreeze"] == [f"kind:{kind}"]


def test_a_kind_that_is_none():
    with pytest.raises(ValueError, match=r"'kind:gamma' is no kind; there is kind:norm, kind:bias"):
        freeze(seeded(0, Backbone), ["kind:gamma"])
    with pytest.raises(ValueError, match=r"'kind:norm' names nothing here: Linear has no such parameter"):
        freeze(nn.Linear(2, 2), ["kind:norm"])
