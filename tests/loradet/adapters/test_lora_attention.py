"""LoRA of one `nn.MultiheadAttention`, against torch's own on the summed weights."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from helpers.adapter_nets import randomize_deltas, same_state, saved_bytes, seeded, state_copy
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from loradet.adapters import LoRALinear, LoRAMultiheadAttention, merge, merged_state_dict, unmerge

WIDTH, HEADS, BATCH, LENGTH, KEYS = 8, 2, 3, 5, 6

KINDS = {
    "plain": dict(),
    "no bias": dict(bias=False),
    "batch first": dict(batch_first=True),
    "separate": dict(kdim=5, vdim=7),
    "separate, batch first, no bias": dict(kdim=8, vdim=3, batch_first=True, bias=False),
    "bias_kv": dict(add_bias_kv=True),
    "zero_attn": dict(add_zero_attn=True, batch_first=True),
    "both": dict(add_bias_kv=True, add_zero_attn=True, kdim=3),
}
# Which of query, key and value are one tensor: torch multiplies by other parts of the fused weight in each case.
SAME = ("qkv", "qk", "kv", "none")


def attention(kind: str, **more) -> nn.MultiheadAttention:
    base = seeded(1, nn.MultiheadAttention, WIDTH, HEADS, **KINDS[kind], **more)
    for parameter in base.parameters():
        parameter.data.normal_(0, 0.4)
    return base.requires_grad_(False)


def wrapped(base: nn.Module, **options) -> LoRAMultiheadAttention:
    return LoRAMultiheadAttention.from_base(copy.deepcopy(base), **{"rank": 2, "alpha": 6.0, **options})


def inputs(base: nn.MultiheadAttention, same: str = "none", batched: bool = True, seed: int = 0):
    """Query, key and value in the layout of `base`; some of them one object where it allows that."""
    generator = torch.Generator().manual_seed(seed)

    def draw(length, width):
        shape = (length, width) if not batched else (BATCH, length, width)
        x = torch.randn(shape, generator=generator)
        return x if base.batch_first or not batched else x.transpose(0, 1).contiguous()

    if same == "none" or base.kdim != WIDTH or base.vdim != WIDTH:
        return draw(LENGTH, WIDTH), draw(KEYS, base.kdim), draw(KEYS, base.vdim)
    query = draw(LENGTH, WIDTH)
    if same == "kv":
        key = draw(KEYS, WIDTH)
        return query, key, key
    return query, query, query if same == "qkv" else draw(LENGTH, WIDTH)


def masks(key_padding: str, attention_mask: str, keys: int, batched: bool = True, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    padding = torch.rand(BATCH if batched else 1, keys, generator=generator)
    padding = {"none": None, "bool": padding < 0.4, "float": padding}[key_padding]
    if key_padding == "bool":
        padding[:, 0] = False
    if padding is not None and not batched:
        padding = padding[0]
    shape = ((BATCH if batched else 1) * HEADS, LENGTH, keys) if "3d" in attention_mask else (LENGTH, keys)
    mask = torch.randn(shape, generator=generator)
    mask = {"none": None, "bool": mask > 0.8, "float": mask}[attention_mask.split()[0]]
    if mask is not None and mask.dtype == torch.bool:
        mask[..., 0] = False
    return {"key_padding_mask": padding, "attn_mask": mask}


calls = st.fixed_dictionaries(
    {
        "same": st.sampled_from(SAME),
        "batched": st.booleans(),
        "key_padding": st.sampled_from(["none", "bool", "float"]),
        "attention_mask": st.sampled_from(["none", "bool", "float", "bool 3d", "float 3d"]),
        "need_weights": st.booleans(),
        "average": st.booleans(),
        "draw": st.integers(0, 5),
    }
)


def call(layer, *, same, batched, key_padding, attention_mask, need_weights, average, draw):
    qkv = inputs(layer, same, batched, draw)
    keys = qkv[1].shape[-2 if layer.batch_first or not batched else 0]
    options = masks(key_padding, attention_mask, keys, batched, draw)
    dtype = layer.out_proj.weight.dtype
    cast = {}
    qkv = [cast.setdefault(id(x), x.to(dtype)) for x in qkv]
    options = {n: m.to(dtype) if m is not None and m.is_floating_point() else m for n, m in options.items()}
    return layer(*qkv, **options, need_weights=need_weights, average_attn_weights=average)


def assert_equal(found, expected):
    assert torch.equal(found[0], expected[0]) and found[0].dtype == expected[0].dtype
    assert (found[1] is None) == (expected[1] is None)
    assert found[1] is None or torch.equal(found[1], expected[1])


@pytest.mark.filterwarnings("ignore:Support for mismatched")
@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=12, database=None)
@given(options=calls, training=st.booleans(), grad=st.booleans(), dropout=st.sampled_from([0.0, 0.3]))
def test_step_zero_is_the_base_bit_for_bit(kind, options, training, grad, dropout):
    base = attention(kind, dropout=dropout).train(training)
    layer = wrapped(base)
    with torch.set_grad_enabled(grad):
        pair = [seeded(7, call, module, **options) for module in (layer, base)]
    if grad and not training:  # here torch may take its fast path for a base in which nothing trains
        for found, expected in zip(*pair):
            assert found is expected is None or torch.allclose(found, expected, atol=1e-6)
    else:
        assert_equal(*pair)


@pytest.mark.parametrize("dtype, autocast", [(torch.bfloat16, False), (torch.float32, True)])
@pytest.mark.parametrize("same", SAME)
@pytest.mark.parametrize("grad", [True, False])
def test_step_zero_in_lower_precision(dtype, autocast, same, grad):
    base = attention("plain").to(dtype).train()
    layer = wrapped(base)
    q, k, v = inputs(base, same)
    cast = {}
    q, k, v = (cast.setdefault(id(x), x.to(dtype)) for x in (q, k, v))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast), torch.set_grad_enabled(grad):
        assert_equal(layer(q, k, v, need_weights=False), base(q, k, v, need_weights=False))


def plain_with_sum(layer: LoRAMultiheadAttention, base: nn.MultiheadAttention) -> nn.MultiheadAttention:
    """The base with W + (alpha / rank) B A in place of each W, written out."""
    plain = copy.deepcopy(base)
    scaling = layer.alpha / layer.rank
    deltas = [scaling * getattr(layer, f"{p}_lora_b") @ getattr(layer, f"{p}_lora_a") for p in "qkv"]
    with torch.no_grad():
        if plain.in_proj_weight is not None:
            plain.in_proj_weight += torch.cat(deltas)
        else:
            for weight, delta in zip((plain.q_proj_weight, plain.k_proj_weight, plain.v_proj_weight), deltas):
                weight += delta
        plain.out_proj.weight += scaling * layer.out_proj.lora_b @ layer.out_proj.lora_a
    return plain


@pytest.mark.filterwarnings("ignore:Support for mismatched")
@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=12, database=None)
@given(options=calls, training=st.booleans())
def test_every_path_follows_the_formula(kind, options, training):
    base = attention(kind).double().train(training)
    layer = randomize_deltas(wrapped(base))
    plain = plain_with_sum(layer, base)
    expected = call(plain, **options)
    with_gradient = call(layer, **options)
    with torch.no_grad():
        without = call(layer, **options)
        merged = call(merge(layer), **options)
    for found in (with_gradient, without, merged):
        torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-8)
    assert with_gradient[0].requires_grad
    assert not torch.allclose(expected[0], call(base, **options)[0], atol=1e-3)


@pytest.mark.parametrize("kind", ["plain", "batch first", "separate"])
def test_a_causal_hint_is_followed(kind):
    base = attention(kind)
    layer = randomize_deltas(wrapped(base)).train()
    plain = plain_with_sum(layer, base).train()
    q, k, v = inputs(base)
    k, v = (x[:, :LENGTH] if base.batch_first else x[:LENGTH] for x in (k, v))
    causal = torch.ones(LENGTH, LENGTH).triu(1).bool()
    padding = torch.zeros(BATCH, LENGTH, dtype=torch.bool)
    for options in ({}, {"need_weights": False}, {"need_weights": False, "key_padding_mask": padding}):
        found = layer(q, k, v, attn_mask=causal, is_causal=True, **options)
        torch.testing.assert_close(found, plain(q, k, v, attn_mask=causal, is_causal=True, **options))
    with pytest.raises(ValueError, match="give attn_mask too"):
        layer(q, k, v, is_causal=True)


@pytest.mark.parametrize("kind", ["plain", "batch first", "separate", "both"])
@pytest.mark.parametrize("freeze_base", [True, False])
@pytest.mark.parametrize("same", SAME)
def test_gradients_are_those_of_the_summed_weights(kind, freeze_base, same):
    base = attention(kind).double().requires_grad_(True)
    one = randomize_deltas(wrapped(base, freeze_base=freeze_base)).train()
    other = copy.deepcopy(one)
    qkv = [x.double() for x in inputs(base, same)]
    first = qkv[0].requires_grad_()
    if same in ("qkv", "qk") and KINDS[kind].get("kdim") is None:
        qkv = [first, first, first if same == "qkv" else qkv[2]]
    one(*qkv)[0].square().sum().backward()
    grad, first.grad = first.grad, None
    # What reads the weights by their names, as fused code does, gets gradients through the sums.
    order = [x.transpose(0, 1) if base.batch_first else x for x in qkv]
    separate = other.in_proj_weight is None
    names = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
    y, _ = F.multi_head_attention_forward(
        *order,
        WIDTH,
        HEADS,
        other.in_proj_weight,
        other.in_proj_bias,
        other.bias_k,
        other.bias_v,
        other.add_zero_attn,
        0.0,
        other.out_proj.weight,
        other.out_proj.bias,
        use_separate_proj_weight=separate,
        **({name: getattr(other, name) for name in names} if separate else {}),
    )
    y.square().sum().backward()
    torch.testing.assert_close(grad, first.grad)
    found, expected = ({n: p.grad for n, p in m.named_parameters() if p.grad is not None} for m in (one, other))
    assert found.keys() == expected.keys()
    assert found.keys() == (one.adapter_tensors().keys() if freeze_base else dict(one.named_parameters()).keys())
    for name in found:
        torch.testing.assert_close(found[name], expected[name], msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("kind", ["plain", "batch first", "separate"])
def test_each_projection_is_a_lora_linear_dropout_included(kind):
    base = attention(kind)
    layer = randomize_deltas(wrapped(base, dropout=0.4)).train()
    weights = {"q": base.q_proj_weight, "k": base.k_proj_weight, "v": base.v_proj_weight}
    if base.in_proj_weight is not None:
        weights = dict(zip("qkv", base.in_proj_weight.chunk(3)))
    projections = {}
    for part, weight in weights.items():
        linear = nn.Linear(weight.shape[1], WIDTH)
        linear.weight.data = weight
        linear.bias.data = base.in_proj_bias.chunk(3)["qkv".index(part)]
        projections[part] = LoRALinear.from_base(linear, rank=2, alpha=6.0, dropout=0.4)
        projections[part].lora_a.data = getattr(layer, f"{part}_lora_a").data
        projections[part].lora_b.data = getattr(layer, f"{part}_lora_b").data
    linear = nn.Linear(WIDTH, WIDTH)
    linear.load_state_dict(base.out_proj.state_dict())
    out = LoRALinear.from_base(linear, rank=2, alpha=6.0, dropout=0.4)
    out.lora_a.data, out.lora_b.data = layer.out_proj.lora_a.data, layer.out_proj.lora_b.data
    qkv = inputs(base)

    def reference():
        q, k, v = (projections[part](x) for part, x in zip("qkv", qkv))
        q, k, v = (x if base.batch_first else x.transpose(0, 1) for x in (q, k, v))
        q, k, v = (x.unflatten(2, (HEADS, -1)).transpose(1, 2) for x in (q, k, v))
        y = ((q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v).transpose(1, 2).flatten(2)
        y = out(y.transpose(0, 1).contiguous())
        return y.transpose(0, 1) if base.batch_first else y

    expected = seeded(5, reference)
    torch.testing.assert_close(seeded(5, layer, *qkv)[0], expected)
    assert not torch.allclose(seeded(6, layer, *qkv)[0], expected, atol=1e-3)
    with torch.no_grad():
        torch.testing.assert_close(seeded(5, layer, *qkv)[0], expected)
        assert torch.equal(layer.eval()(*qkv)[0], layer(*qkv)[0])


def test_dropout_of_attention_weights_stays_that_of_the_base():
    base = attention("plain", dropout=0.5).train()
    layer = wrapped(base, dropout=0.0)
    q, k, v = inputs(base)
    assert layer.dropout == 0.5 and layer.lora_dropout.p == 0.0
    assert torch.equal(seeded(2, layer, q, k, v)[0], seeded(2, base, q, k, v)[0])
    assert not torch.equal(layer(q, k, v)[0], layer(q, k, v)[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("freeze_base", [True, False])
def test_what_there_is_and_what_trains(kind, freeze_base):
    base = attention(kind).requires_grad_(True)
    layer = wrapped(base, rank=3, freeze_base=freeze_base)
    own = dict(base.named_parameters())
    widths = {"q": WIDTH, "k": base.kdim, "v": base.vdim, "out": WIDTH}
    assert {n: p for n, p in layer.state_dict().items() if n in own}.keys() == own.keys()
    deltas = {n: tuple(p.shape) for n, p in layer.named_parameters() if n not in own}
    assert deltas == layer.adapter_shapes(3)
    assert sum(p.numel() for p in layer.adapter_tensors().values()) == sum(3 * (w + WIDTH) for w in widths.values())
    trains = {n for n, p in layer.named_parameters() if p.requires_grad}
    assert trains == (set(deltas) if freeze_base else set(deltas) | set(own))
    assert layer.is_base and all((n.endswith("lora_b")) == (not p.any()) for n, p in layer.adapter_tensors().items())
    bounds = {n: 1 / p.shape[1] ** 0.5 for n, p in layer.adapter_tensors().items() if n.endswith("lora_a")}
    assert all(layer.adapter_tensors()[n].abs().max() <= bound for n, bound in bounds.items())
    assert not randomize_deltas(layer).is_base
    assert "rank=3, alpha=6" in repr(layer)


@pytest.mark.parametrize("kind", KINDS)
def test_merging_changes_nothing_that_is_saved_and_unmerge_restores_every_bit(kind):
    base = attention(kind)
    layer = randomize_deltas(wrapped(base)).eval()
    before = state_copy(layer)
    plain = copy.deepcopy(base)
    merge(merge(layer))
    assert layer.merged and "merged" in repr(layer) and same_state(before, layer.state_dict())
    state = merged_state_dict(layer)
    plain.load_state_dict(state)
    assert state.keys() == base.state_dict().keys()
    q, k, v = inputs(base)
    expected = unmerge(layer)(q, k, v)[0]
    assert same_state(before, layer.state_dict()) and not layer.merged
    torch.testing.assert_close(plain(q, k, v)[0], expected, atol=1e-5, rtol=1e-5)
    assert same_state(state, merged_state_dict(layer))
    for name, parameter in base.named_parameters():
        assert torch.equal(dict(layer.named_parameters())[name], parameter)


def test_a_merged_layer_takes_other_weights_and_stays_merged():
    layer, other = (randomize_deltas(wrapped(attention("plain")), seed) for seed in (1, 2))
    other.in_proj_weight.data  # noqa: B018 (reading the sum leaves no trace)
    for parameter in other.parameters():
        parameter.data += 0.1
    q, k, v = inputs(layer)
    merge(layer).load_state_dict(other.state_dict())
    assert layer.merged
    torch.testing.assert_close(layer.eval()(q, k, v)[0], other.eval()(q, k, v)[0], atol=1e-5, rtol=1e-5)
    assert same_state(unmerge(layer).state_dict(), other.state_dict())


def test_training_while_merged_is_an_error():
    layer = merge(wrapped(attention("plain"))).train()
    with pytest.raises(RuntimeError, match="unmerge"):
        layer(*inputs(layer))
    layer.eval()(*inputs(layer))


@pytest.mark.parametrize("how", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
@pytest.mark.parametrize("merged", [False, True])
def test_copies_are_whole_and_their_own(how, merged):
    layer = randomize_deltas(wrapped(attention("separate"), dropout=0.2)).eval()
    if merged:
        merge(layer)
    clone = how(layer)
    q, k, v = inputs(layer)
    assert torch.equal(clone(q, k, v)[0], layer(q, k, v)[0])
    assert (clone.rank, clone.alpha, clone.lora_dropout.p, clone.merged) == (2, 6.0, 0.2, merged)
    unmerge(clone)
    randomize_deltas(clone, 9)
    assert not torch.equal(clone(q, k, v)[0], layer(q, k, v)[0]) and layer.merged == merged


def test_the_constructor_makes_what_wrapping_makes():
    options = dict(dropout=0.1, kdim=5, batch_first=True)
    made = seeded(3, LoRAMultiheadAttention, WIDTH, HEADS, **options, rank=2, alpha=6.0, lora_dropout=0.2)
    base = seeded(3, nn.MultiheadAttention, WIDTH, HEADS, **options)
    layer = LoRAMultiheadAttention.from_base(base, rank=2, alpha=6.0, dropout=0.2)
    assert layer is base and same_state(made.state_dict(), layer.state_dict())
    assert (made.dropout, made.lora_dropout.p, made.freeze_base) == (0.1, 0.2, True)
    with pytest.raises(ValueError, match="rank=0"):
        LoRAMultiheadAttention(8, 2, rank=0, alpha=1.0)


def test_inputs_and_masks_of_other_shapes_are_errors():
    layer = wrapped(attention("plain"))
    q, k, v = inputs(layer)
    for wrong in ((q, k[:, :1], v[:, :1]), (q, k, v[:-1]), (q[0], k, v)):
        with pytest.raises(ValueError, match=r"expected \(length, N, channels\)"):
            layer(*wrong)
    for name, mask in (
        ("attn_mask", torch.zeros(1, KEYS)),
        ("key_padding_mask", torch.zeros(KEYS, BATCH).bool()),
        ("attn_mask", torch.zeros(LENGTH, KEYS, dtype=torch.long)),
    ):
        with pytest.raises(ValueError, match=f"{name} has"):
            layer(q, k, v, **{name: mask})


class Called(nn.Module):
    """An attention as a function of one tensor."""

    def __init__(self, attention: nn.Module, same: str):
        super().__init__()
        self.attention, self.same = attention, same

    def forward(self, x):
        y, z = x * 2, x * 3
        qkv = {"qkv": (x, x, x), "qk": (x, x, y), "kv": (x, y, y), "none": (x, y, z)}[self.same]
        return self.attention(*qkv, need_weights=False)[0]


@pytest.mark.parametrize("same", SAME)
@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_no_second_copy_of_the_inputs_is_kept(same, dropout, autocast, batch_first):
    full = nn.MultiheadAttention(64, 2, batch_first=batch_first)
    layer = LoRAMultiheadAttention.from_base(copy.deepcopy(full), rank=2, alpha=4.0, dropout=dropout)
    x = torch.randn(50, 40, 64, requires_grad=True)
    element = 2 if autocast else 4
    rank_sized, masks, factors = 4 * 50 * 40 * 2 * element, 4 * x.numel() * bool(dropout), 8 * 64 * 2 * element
    kept = {module: saved_bytes(Called(module, same), x, autocast) for module in (full, layer)}
    assert kept[layer] <= kept[full] + rank_sized + masks + factors
    assert rank_sized + factors < x.numel() * element  # the allowance could not hide another copy of an input


@pytest.mark.parametrize("same", ["qk", "none"])
@pytest.mark.parametrize("grad", [True, False])
def test_it_is_traced_as_one_graph(same, grad):
    layer = randomize_deltas(wrapped(attention("plain"))).train(grad)
    qkv = inputs(layer, same)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(compiled(*qkv, need_weights=False)[0], layer(*qkv, need_weights=False)[0])
