"""The plain vision transformer: against timm's SAM encoder, which has the same blocks, and by its properties."""

import copy
import math
from functools import partial

import pytest
import torch
from detectron2.modeling import SimpleFeaturePyramid, ViT, get_vit_lr_decay_rate
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.backbone.utils import (
    add_decomposed_rel_pos,
    get_abs_pos,
    get_rel_pos,
    window_partition,
    window_unpartition,
)
from detectron2.modeling.backbone.vit import Attention, ResBottleneckBlock
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models.vision_transformer_sam import VisionTransformerSAM
from torch import nn
from torch.nn import functional as F

DEPTH = 4


def build(**options) -> ViT:
    torch.manual_seed(0)
    defaults = dict(
        img_size=64,
        patch_size=8,
        embed_dim=24,
        depth=DEPTH,
        num_heads=3,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=3,
        window_block_indexes=(0, 2),
        pretrain_img_size=32,
    )
    return ViT(**{**defaults, **options})


def randomize(model: nn.Module) -> nn.Module:
    """What starts at zero could hide a mistake."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


def test_blocks_equal_those_of_timm():
    ours = randomize(build(pretrain_img_size=64, pretrain_use_cls_token=False)).eval()
    theirs = VisionTransformerSAM(
        img_size=64,
        patch_size=8,
        embed_dim=24,
        depth=DEPTH,
        num_heads=3,
        use_rel_pos=True,
        window_size=3,
        global_attn_indexes=(1, 3),
        neck_chans=0,
        num_classes=0,
    ).eval()
    weights = ours.state_dict()
    weights["pos_embed"] = weights["pos_embed"].unflatten(1, (8, 8))
    missing, unexpected = theirs.load_state_dict(weights, strict=False)
    assert not unexpected and not [key for key in missing if not key.startswith(("neck", "head"))]
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        hidden = theirs.patch_embed(x) + theirs.pos_embed
        for block in theirs.blocks:
            hidden = block(hidden)
        (produced,) = ours(x).values()
    torch.testing.assert_close(produced, hidden.permute(0, 3, 1, 2), rtol=1e-4, atol=1e-4)


def test_names_of_weights_are_those_of_checkpoints():
    keys = set(build(residual_block_indexes=(3,)).state_dict())
    linear = ("weight", "bias")
    expected = {"pos_embed", *(f"patch_embed.proj.{part}" for part in linear)}
    for i in range(DEPTH):
        layers = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
        expected |= {f"blocks.{i}.{layer}.{part}" for layer in layers for part in linear}
        expected |= {f"blocks.{i}.attn.rel_pos_{axis}" for axis in "hw"}
    expected |= {f"blocks.3.residual.conv{k}.weight" for k in (1, 2, 3)}
    expected |= {f"blocks.3.residual.norm{k}.{part}" for k in (1, 2, 3) for part in linear}
    assert keys == expected
    model = build()
    assert model.blocks[0].attn.rel_pos_h.shape == (5, 8)  # windows of 3
    assert model.blocks[1].attn.rel_pos_h.shape == (15, 8)  # 64 / 8 positions
    assert model.pos_embed.shape == (1, 17, 24)  # 4 x 4 and the class token
    assert build(use_abs_pos=False).pos_embed is None


@pytest.mark.parametrize("size", [(64, 64), (40, 72), (8, 8)])
def test_any_input_size(size):
    model = randomize(build()).eval()
    outputs = model(torch.randn(1, 3, *size))
    assert {name: tuple(x.shape) for name, x in outputs.items()} == {"last_feat": (1, 24, size[0] // 8, size[1] // 8)}
    assert model.output_shape()["last_feat"].stride == 8
    assert model.size_divisibility == 0


def test_windows_see_only_themselves():
    """A change in one corner reaches its own window of 3 x 3 patches, or everything with a global block."""
    x = torch.randn(1, 3, 64, 64)
    changed = x.clone()
    changed[..., :8, :8] += 1
    reached = {}
    for name, indexes in (("windows", range(DEPTH)), ("one global block", (0, 2, 3))):
        model = randomize(build(window_block_indexes=indexes)).eval()
        with torch.no_grad():
            difference = model(x)["last_feat"] - model(changed)["last_feat"]
        reached[name] = difference.abs().amax(dim=1)[0] > 1e-6
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[:3, :3] = True
    assert torch.equal(reached["windows"], expected)
    assert reached["one global block"].all()


# The checkpointing of Detectron2 0.6 (main of 2026-06-06) is fairscale's, which does not come with it.
@pytest.mark.subset
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_every_parameter_gets_a_gradient_and_checkpointing_changes_nothing(training):
    gradients, runs = {}, {}
    x = torch.randn(2, 3, 40, 48)
    for checkpointed in (False, True):
        model = randomize(build(use_act_checkpoint=checkpointed, residual_block_indexes=(1,))).train(training)
        calls = []
        model.blocks[0].mlp.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        model(x)["last_feat"].square().sum().backward()
        runs[checkpointed] = len(calls)
        gradients[checkpointed] = {name: p.grad for name, p in model.named_parameters()}
    assert runs == {False: 1, True: 2}
    assert [name for name, grad in gradients[False].items() if grad is None or not grad.any()] == []
    for name, grad in gradients[False].items():
        torch.testing.assert_close(gradients[True][name], grad)


def test_residual_blocks_start_as_the_identity():
    block = ResBottleneckBlock(8, 8, 4)
    x = torch.randn(2, 8, 5, 6)
    assert torch.equal(block(x), x)


def test_drop_path_acts_in_training_only():
    model = randomize(build(drop_path_rate=0.6))
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model.eval()(x)["last_feat"], model(x)["last_feat"])
        outputs = [model.train()(x)["last_feat"] for _ in range(8)]
    assert any(not torch.equal(outputs[0], other) for other in outputs[1:])


@pytest.mark.subset
def test_drop_path_rises_with_the_depth():
    rates = [getattr(block.drop_path, "p", 0) for block in build(drop_path_rate=0.6).blocks]
    assert rates == pytest.approx([0, 0.2, 0.4, 0.6])


@pytest.mark.parametrize("use_rel_pos", [False, True])
def test_attention_equals_the_formula(use_rel_pos):
    attention = randomize(Attention(12, num_heads=3, use_rel_pos=use_rel_pos, input_size=(4, 4)))
    x = torch.randn(2, 4, 5, 12, requires_grad=True)
    n, h, w, c = x.shape
    q, k, v = attention.qkv(x).reshape(n, h * w, 3, 3, c // 3).permute(2, 0, 3, 1, 4).reshape(3, n * 3, h * w, c // 3)
    logits = q @ k.transpose(1, 2) / math.sqrt(c // 3)
    if use_rel_pos:
        logits = add_decomposed_rel_pos(logits, q, attention.rel_pos_h, attention.rel_pos_w, (h, w), (h, w))
    mixed = (logits.softmax(dim=-1) @ v).reshape(n, 3, h, w, c // 3).permute(0, 2, 3, 1, 4).reshape(n, h, w, c)
    expected = attention.proj(mixed)
    produced = attention(x)
    torch.testing.assert_close(produced, expected, rtol=1e-5, atol=1e-5)

    weights = [x, *attention.parameters()]
    along = torch.randn(expected.shape)
    for ours, reference in zip(
        torch.autograd.grad((produced * along).sum(), weights), torch.autograd.grad((expected * along).sum(), weights)
    ):
        torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-4)


def test_mixed_precision():
    model = randomize(build()).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(torch.randn(1, 3, 64, 64))["last_feat"]
    output.float().sum().backward()
    assert torch.isfinite(model.blocks[1].attn.rel_pos_h.grad).all()


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 3), h=st.integers(1, 9), w=st.integers(1, 9), size=st.integers(1, 5))
def test_windows_equal_the_loop_and_come_back(n, h, w, size):
    x = torch.arange(n * h * w * 2, dtype=torch.float32).reshape(n, h, w, 2) + 1
    windows, (padded_h, padded_w) = window_partition(x, size)
    assert (padded_h, padded_w) == (math.ceil(h / size) * size, math.ceil(w / size) * size)
    whole = torch.zeros(n, padded_h, padded_w, 2)
    whole[:, :h, :w] = x
    expected = [
        whole[i, top : top + size, left : left + size]
        for i in range(n)
        for top in range(0, padded_h, size)
        for left in range(0, padded_w, size)
    ]
    assert torch.equal(windows, torch.stack(expected))
    assert torch.equal(window_unpartition(windows, size, (padded_h, padded_w), (h, w)), x)


def test_relative_positions_go_by_distance():
    table = torch.arange(7.0)[:, None].repeat(1, 2)
    same = get_rel_pos(4, 4, table)
    for q in range(4):
        for k in range(4):
            assert torch.equal(same[q, k], table[q - k + 3])
    # Keys at every second place of the queries.
    coarse = get_rel_pos(4, 2, table)
    assert coarse[..., 0].tolist() == [[2, 0], [3, 1], [4, 2], [5, 3]]


@pytest.mark.parametrize("size", [2, 6])
def test_relative_positions_are_interpolated(size):
    table = torch.randn(7, 3)
    resized = F.interpolate(table.t()[None], size=2 * size - 1, mode="linear")[0].t()
    found = get_rel_pos(size, size, table)
    for q in range(size):
        for k in range(size):
            torch.testing.assert_close(found[q, k], resized[q - k + size - 1])


def test_decomposed_positions_equal_the_loop():
    (q_h, q_w), (k_h, k_w), channels = (3, 2), (3, 4), 5
    q = torch.randn(2, q_h * q_w, channels)
    attn = torch.randn(2, q_h * q_w, k_h * k_w)
    rel_h, rel_w = torch.randn(5, channels), torch.randn(7, channels)
    by_row, by_column = get_rel_pos(q_h, k_h, rel_h), get_rel_pos(q_w, k_w, rel_w)
    expected = attn.clone()
    for b in range(2):
        for i in range(q_h * q_w):
            for j in range(k_h * k_w):
                row = q[b, i] @ by_row[i // q_w, j // k_w]
                column = q[b, i] @ by_column[i % q_w, j % k_w]
                expected[b, i, j] += row + column
    produced = add_decomposed_rel_pos(attn, q, rel_h, rel_w, (q_h, q_w), (k_h, k_w))
    torch.testing.assert_close(produced, expected, rtol=1e-5, atol=1e-5)


def test_absolute_positions():
    positions = torch.randn(1, 10, 4)
    grid = positions[0, 1:].reshape(3, 3, 4)
    assert torch.equal(get_abs_pos(positions, True, (3, 3))[0], grid)
    resized = F.interpolate(grid.permute(2, 0, 1)[None], size=(5, 2), mode="bicubic", align_corners=False)
    torch.testing.assert_close(get_abs_pos(positions, True, (5, 2)), resized.permute(0, 2, 3, 1))
    with pytest.raises(AssertionError):
        get_abs_pos(positions, False, (3, 3))


def test_learning_rates_fall_towards_the_input():
    net = build(residual_block_indexes=(1,))
    backbone = SimpleFeaturePyramid(net, "last_feat", 8, [2.0, 1.0, 0.5])
    rates = {
        name: get_vit_lr_decay_rate(f"backbone.{name}", lr_decay_rate=0.5, num_layers=DEPTH)
        for name, _ in backbone.named_parameters()
    }
    for name, rate in rates.items():
        if "pos_embed" in name or "patch_embed" in name:
            assert rate == 0.5 ** (DEPTH + 1), name
        elif "blocks" in name and "residual" not in name:
            assert rate == 0.5 ** (DEPTH - int(name.split(".")[2])), name
        else:
            assert rate == 1, name
    assert len(set(rates.values())) == DEPTH + 2
    assert get_vit_lr_decay_rate("roi_heads.blocks.0.weight", lr_decay_rate=0.5, num_layers=DEPTH) == 1


# Detectron2 0.6 (main of 2026-06-06) goes on with the stages that it was built with.
@pytest.mark.subset
def test_the_pyramid_uses_a_stage_that_was_replaced():
    pyramid = SimpleFeaturePyramid(build(), "last_feat", 8, [2.0, 1.0, 0.5], square_pad=64).eval()
    assert pyramid.padding_constraints["square_size"] == 64
    assert {name: shape.stride for name, shape in pyramid.output_shape().items()} == {"p2": 4, "p3": 8, "p4": 16}
    twin = copy.deepcopy(pyramid)
    nn.init.zeros_(twin.simfp_3[0].weight)
    twin.simfp_2 = nn.Identity()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before, after = pyramid(x), twin(x)
    assert after["p2"].shape == (1, 24, 8, 8) and not torch.equal(before["p3"], after["p3"])
    assert torch.equal(before["p4"], after["p4"])


@pytest.mark.subset
def test_the_pyramid_refuses_a_top_block_that_it_cannot_feed():
    with pytest.raises(AssertionError, match=r"top block takes 'p5'.*last_feat, p2, p3, p4"):
        SimpleFeaturePyramid(build(), "last_feat", 8, [2.0, 1.0, 0.5], top_block=LastLevelMaxPool())
