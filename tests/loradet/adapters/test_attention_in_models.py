"""LoRA of the attention inside torch's transformer layers and of a stand-in for DETR: fast paths, regimes, files."""

import copy
import pickle

import pytest
import torch
from helpers.adapter_nets import randomize_deltas, same_state, seeded, state_copy
from helpers.attention_nets import BoxMlp, StandInDetr, Transformer
from torch import nn

from loradet.adapters import (
    AdapterBank,
    AdapterError,
    LoRALinear,
    LoRAMultiheadAttention,
    adapter_layers,
    adapter_sizes,
    export_peft,
    freeze,
    load_adapter,
    lora,
    merge,
    merged_state_dict,
    parameter_table,
    save_adapter,
    unmerge,
)

ATTENTION = ["self_attn", "multihead_attn"]
FEED_FORWARD = ["linear1", "linear2"]
HEADS = ["class_embed", "bbox_embed", "query_embed"]
IMAGES = torch.linspace(-2, 2, 2 * 3 * 32 * 32).view(2, 3, 32, 32)


class Fused:
    """Counts calls of torch's fused functions."""

    def __init__(self, monkeypatch):
        self.calls = {"_native_multi_head_attention": 0, "_transformer_encoder_layer_fwd": 0}
        for name in self.calls:
            monkeypatch.setattr(torch, name, self._counting(name, getattr(torch, name)))

    def _counting(self, name, function):
        def counted(*args, **kwargs):
            self.calls[name] += 1
            return function(*args, **kwargs)

        return counted

    def during(self, function, *args, **kwargs):
        before = dict(self.calls)
        with torch.no_grad():
            result = function(*args, **kwargs)
        return result, {name: count - before[name] for name, count in self.calls.items()}


@pytest.fixture
def fused(monkeypatch) -> Fused:
    return Fused(monkeypatch)


def assert_has_delta(
    base: nn.Module, targets: list[str], fused: Fused, *args, valid=..., gradient=True, **kwargs
) -> int:
    """Wrapped equals merged equals a plain module of the summed weights, and not the base; returns fused calls.

    `valid` indexes the outputs that torch's fast and slow paths both define.
    """
    module = copy.deepcopy(base.requires_grad_(False))
    lora(module, targets, rank=2, alpha=8.0)
    step_zero, _ = fused.during(module.eval(), *args, **kwargs)
    before, calls = fused.during(base.eval(), *args, **kwargs)
    assert torch.equal(step_zero, before)
    randomize_deltas(module)
    plain = copy.deepcopy(base)
    plain.load_state_dict(merged_state_dict(module))
    expected, _ = fused.during(plain, *args, **kwargs)
    found, found_calls = fused.during(module, *args, **kwargs)
    outputs = [module(*args, **kwargs)] if gradient else []
    assert all(output.requires_grad for output in outputs)
    merged, merged_calls = fused.during(merge(module), *args, **kwargs)
    assert (expected - before)[valid].abs().max() > 1e-2
    assert calls == found_calls == merged_calls
    for output in (found, merged, *outputs):
        torch.testing.assert_close(output[valid], expected[valid], atol=1e-5, rtol=1e-5)
    assert torch.equal(fused.during(unmerge(module), *args, **kwargs)[0], found)
    return sum(calls.values())


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("padded", [False, True])
def test_the_fast_path_of_an_encoder_layer_has_the_delta(norm_first, activation, padded, fused):
    options = dict(activation=activation, norm_first=norm_first, batch_first=True)
    base = seeded(0, nn.TransformerEncoderLayer, 8, 2, 16, **options)
    mask = torch.arange(5).expand(3, 5) > 2
    padding = {"src_key_padding_mask": mask, "valid": ~mask} if padded else {}
    calls = assert_has_delta(base, ["self_attn"], fused, torch.randn(3, 5, 8), **padding)
    assert calls == 1


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors", "ignore:enable_nested_tensor")
@pytest.mark.parametrize("targets", [["layers.0.self_attn"], ["layers.1.self_attn"], ["self_attn"]])
@pytest.mark.parametrize("bias", [True, False])
def test_the_nested_fast_path_of_an_encoder_has_the_delta(targets, bias, fused):
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, bias=bias)
    base = seeded(0, nn.TransformerEncoder, layer, 2)
    for parameter in base.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape)
    padding = torch.arange(5).expand(3, 5) >= torch.tensor([[5], [3], [2]])
    # With gradients torch makes a nested tensor where the first layer has none, and cannot go on with it in a layer
    # that has some, LoRA or not.
    gradient = not bias or targets != ["layers.1.self_attn"]
    options = {"src_key_padding_mask": padding, "valid": ~padding, "gradient": gradient}
    calls = assert_has_delta(base, targets, fused, torch.randn(3, 5, 8), **options)
    assert calls == (2 if bias else 0)


def test_the_fast_path_of_attention_itself_has_the_delta(fused):
    class Self(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x):
            return self.attention(x, x, x, need_weights=False)[0]

    base = seeded(0, Self)
    assert assert_has_delta(base, ["attention"], fused, torch.randn(3, 5, 8)) == 1


def test_a_decoder_layer_of_torch(fused):
    base = seeded(0, nn.TransformerDecoderLayer, 8, 2, 16)
    x, memory = torch.randn(4, 3, 8), torch.randn(6, 3, 8)
    assert assert_has_delta(base, [*ATTENTION, *FEED_FORWARD], fused, x, memory) == 0
    module = lora(base, [*ATTENTION, *FEED_FORWARD], rank=2, alpha=4.0)
    kinds = {path: type(layer) for path, layer in adapter_layers(module)}
    assert kinds == {
        **dict.fromkeys(ATTENTION, LoRAMultiheadAttention),
        **dict.fromkeys(FEED_FORWARD, LoRALinear),
    }


def lora_only(base_seed=0, *, targets=ATTENTION, rank=2, dropout=0.0, unfreeze=HEADS, **options) -> StandInDetr:
    frozen = freeze(seeded(base_seed, StandInDetr, **options), unfreeze=unfreeze)
    return lora(frozen, targets, rank=rank, alpha=2.0 * rank, dropout=dropout)


def trainable(model: nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


COPIES = {
    "itself": lambda m: m,
    "deepcopy": copy.deepcopy,
    "pickle": lambda m: pickle.loads(pickle.dumps(m)),
}


@pytest.mark.parametrize("how", COPIES)
def test_lora_only_trains_deltas_and_heads_and_all_else_is_in_eval_mode(how):
    model = COPIES[how](lora_only(dropout=0.1, targets=[*ATTENTION, *FEED_FORWARD])).train()
    deltas = {n for n in dict(model.named_parameters()) if n.endswith(("lora_a", "lora_b"))}
    heads = {n for n in dict(model.named_parameters()) if n.startswith(tuple(HEADS))}
    assert trainable(model) == deltas | heads and "query_embed.weight" in heads
    assert set(model(IMAGES)) == {"loss_ce", "loss_bbox"}
    on = {path for path, m in model.named_modules() if m.training}
    for path, module in model.named_modules():
        if isinstance(module, nn.Dropout):
            assert module.training == path.endswith("lora_dropout"), path
        if isinstance(module, nn.BatchNorm2d | LoRAMultiheadAttention):
            assert not module.training, path
    assert {"class_embed", "bbox_embed.layers.0", "query_embed", "", "transformer.encoder.0.linear1"} <= on
    model.eval()
    assert not any(m.training for m in model.modules()) and isinstance(model(IMAGES), tuple)


def test_lora_only_the_only_randomness_is_dropout_of_lora():
    quiet, loud = (randomize_deltas(lora_only(dropout=p)).train() for p in (0.0, 0.3))
    assert torch.equal(quiet(IMAGES)["loss_ce"], quiet(IMAGES)["loss_ce"])
    assert not torch.equal(loud(IMAGES)["loss_ce"], loud(IMAGES)["loss_ce"])
    assert torch.equal(loud.eval()(IMAGES)[0], loud(IMAGES)[0])


def test_lora_only_learns_with_what_trains_and_leaves_the_rest():
    model = lora_only(targets=[*ATTENTION, *FEED_FORWARD]).train()
    randomize_deltas(model)
    before = state_copy(model)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    losses = model(IMAGES)
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)
    optimizer.step()
    after = model.state_dict()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    # The first decoder layer attends among zeros, from which there is nothing to learn.
    still = {name for name in trainable(model) if name.startswith("transformer.decoder.0.self_attn.")}
    assert trainable(model) - still <= changed <= trainable(model)


def test_partial_trains_the_last_stage_and_heads():
    model = freeze(StandInDetr(), unfreeze=["layer4", *HEADS]).train()
    assert trainable(model) == {
        n for n in dict(model.named_parameters()) if n.startswith(("backbone.0.layer4", *HEADS))
    }
    modes = {path: m.training for path, m in model.named_modules()}
    assert modes["backbone.0.layer4.1"] and not modes["backbone.0.layer3.1"] and modes[""]
    sum(model(IMAGES).values()).backward()
    assert {n for n, p in model.named_parameters() if p.grad is not None} == trainable(model)


def attention_numbers(width: int, rank: int, encoder: int, decoder: int) -> int:
    return (encoder + 2 * decoder) * 8 * rank * width


def feed_forward_numbers(width: int, hidden: int, rank: int, encoder: int, decoder: int) -> int:
    return (encoder + decoder) * 2 * rank * (width + hidden)


@pytest.mark.parametrize("rank", [1, 4, 8])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("hidden", [24, 40])
def test_numbers_of_parameters_of_every_regime(rank, layers, hidden):
    width, queries, classes = 16, 5, 3
    shape = dict(width=width, hidden=hidden, layers=layers, queries=queries, classes=classes)
    heads = (width + 1) * (classes + 1) + 2 * (width + 1) * width + (width + 1) * 4 + queries * width
    attention = attention_numbers(width, rank, layers, layers)
    both = attention + feed_forward_numbers(width, hidden, rank, layers, layers)
    stage = 4 * 6 * 9 + 2 * 6
    everything = sum(p.numel() for p in StandInDetr(**shape).parameters())

    def count(model):
        return parameter_table(model).all.trainable

    assert count(StandInDetr(**shape)) == everything
    assert count(lora_only(rank=rank, **shape)) == attention + heads
    assert count(lora_only(rank=rank, targets=[*ATTENTION, *FEED_FORWARD], **shape)) == both + heads
    assert count(freeze(StandInDetr(**shape), unfreeze=["layer4", *HEADS])) == stage + heads
    assert parameter_table(lora_only(rank=rank, **shape)).all.total == everything + attention


@pytest.mark.parametrize("rank, numbers", [(4, 147_456), (8, 294_912), (16, 589_824)])
def test_numbers_of_parameters_of_detr_r50(rank, numbers):
    model = nn.Module()
    with torch.device("meta"):
        model.transformer = Transformer(256, 8, 2048, 6, 0.1)
        model.query_embed, model.class_embed, model.bbox_embed = nn.Embedding(100, 256), nn.Linear(256, 11), BoxMlp(256)
    lora(freeze(model, unfreeze=HEADS), ATTENTION, rank=rank, alpha=2.0 * rank)
    assert numbers == attention_numbers(256, rank, 6, 6)
    assert parameter_table(model).all.trainable == numbers + 161_039


def test_a_checkpoint_of_the_base_loads_before_or_after():
    base = freeze(seeded(4, StandInDetr), unfreeze=HEADS).eval()
    late = lora_only(5).eval()
    report = late.load_state_dict(base.state_dict(), strict=False)
    assert not report.unexpected_keys and set(report.missing_keys) == {
        f"{path}.{name}" for path, layer in adapter_layers(late) for name in layer.adapter_tensors()
    }
    with torch.no_grad():
        assert torch.equal(late(IMAGES)[0], base(IMAGES)[0])


def trained(seed: int, **options) -> StandInDetr:
    model = randomize_deltas(lora_only(**options), seed).eval()
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if name.startswith(tuple(HEADS)):
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


@torch.no_grad()
def test_an_adapter_file_holds_deltas_and_heads_and_goes_round(tmp_path):
    model = trained(1, rank=3)
    save_adapter(model, tmp_path / "a.safetensors")
    fresh = lora_only(rank=3).eval()
    load_adapter(fresh, tmp_path / "a.safetensors")
    assert same_state(fresh.state_dict(), model.state_dict()) and torch.equal(fresh(IMAGES)[0], model(IMAGES)[0])
    assert adapter_sizes(tmp_path / "a.safetensors").lora == 4 * attention_numbers(16, 3, 2, 2)
    other = lora_only(rank=2).eval()
    with pytest.raises(AdapterError, match="build it with rank=3"):
        load_adapter(other, tmp_path / "a.safetensors")
    with pytest.raises(AdapterError, match="other base weights"):
        load_adapter(lora_only(9, rank=3), tmp_path / "a.safetensors")
    with pytest.raises(AdapterError, match="other targets") as error:
        load_adapter(lora_only(rank=3, targets=["self_attn"]), tmp_path / "a.safetensors")
    assert "lora_a" not in str(error.value)


@torch.no_grad()
@pytest.mark.parametrize("merged", [False, True])
def test_a_bank_switches_ranks_and_brings_the_base_back(merged, tmp_path):
    expected = {}
    for name, seed, rank in (("ships", 1, 2), ("bridges", 2, 5)):
        model = trained(seed, rank=rank)
        expected[name] = (merge(model) if merged else model)(IMAGES)[0]
        save_adapter(model, tmp_path / f"{name}.safetensors")
    model = lora_only().eval()
    expected[None] = (merge(model) if merged else model)(IMAGES)[0]
    bank = AdapterBank(model)
    bank.add("ships", tmp_path / "ships.safetensors")
    bank.add("bridges", tmp_path / "bridges.safetensors")
    for name in ("bridges", "ships", None, "bridges", None):
        bank.activate(name)
        assert torch.equal(model(IMAGES)[0], expected[name])


def test_pefts_layout_is_refused(tmp_path):
    class Backbone(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2)

    model = nn.Module()
    model.backbone = lora(freeze(Backbone()), ["attention"], rank=2, alpha=4.0)
    save_adapter(model, tmp_path / "a.safetensors")
    with pytest.raises(AdapterError, match="is an attention with LoRA of its own for q, k and v"):
        export_peft(tmp_path / "a.safetensors", tmp_path / "peft")
    assert not (tmp_path / "peft").exists()
