"""TimmViT over timm's plain vision transformers, DINOv3's among them."""

import contextlib
import copy
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator

import pytest
import timm
import torch
import torch.nn.functional as F
from detectron2.config import LazyCall, instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import nn

from loradet.adapters import freeze, lora, merge, unmerge
from loradet.backbones import TimmViT

TINY = {"embed_dim": 32, "depth": 2, "num_heads": 2}
# name: edge of a patch
NETWORKS = {"vit_small_patch16_dinov3": 16, "vit_tiny_patch16_224": 16, "vit_small_patch14_reg4_dinov2": 14}
QKVB = "vit_small_patch16_dinov3_qkvb"  # timm reads the weight of its qkv layers without calling them
ADAPTED = ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"]


def make(name: str = "vit_small_patch16_dinov3", **kwargs) -> TimmViT:
    torch.manual_seed(0)
    backbone = TimmViT(name, **{**TINY, **kwargs})
    with torch.no_grad():  # timm's own layer scales are 1e-5, which hides the blocks' work
        for key, p in backbone.named_parameters():
            if "gamma" in key:
                p.uniform_(0.5, 1.5)
    return backbone


def randomize_deltas(backbone: nn.Module) -> None:
    with torch.no_grad():
        for key, p in backbone.named_parameters():
            if key.endswith("lora_b"):
                p.normal_(std=0.1)


@contextlib.contextmanager
def saved_tensors() -> Iterator[list[tuple[int, ...]]]:
    """Shapes of what autograd keeps for backward."""
    shapes = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield shapes


@pytest.mark.parametrize(("name", "patch"), NETWORKS.items())
def test_any_size_gives_timms_tokens_and_gradients(name, patch):
    backbone = make(name, blocks=[0, -1]).eval()
    assert isinstance(backbone, Backbone)
    assert backbone.size_divisibility == patch
    shape = ShapeSpec(channels=32, stride=patch)
    assert backbone.output_shape() == {"block0": shape, "block1": shape}

    for rows, columns in [(4, 4), (2, 5), (7, 3)]:
        x = torch.randn(2, 3, rows * patch, columns * patch)
        expected = backbone.net.forward_intermediates(x, indices=[0, 1], norm=True, intermediates_only=True)
        # The patches' own tokens are the last of the sequence, in row-major order.
        tokens = backbone.net.forward_features(x)[:, -rows * columns :]
        last = tokens.transpose(1, 2).reshape(2, 32, rows, columns)
        features = backbone(x)
        for feature, other in zip(features.values(), expected):
            torch.testing.assert_close(feature, other)
        torch.testing.assert_close(features["block1"], last)

    for size in [(1, 1), (patch + 1, 3 * patch - 1), (3 * patch, 70)]:
        x = torch.randn(1, 3, *size)
        padded = F.pad(x, (0, -size[1] % patch, 0, -size[0] % patch))
        features, expected = backbone(x), backbone(padded)
        for key, feature in features.items():
            assert feature.shape == (1, 32, *(-(-edge // patch) for edge in size))
            assert torch.equal(feature, expected[key])

    features = backbone.train()(torch.randn(2, 3, 40, 70))
    sum(feature.square().mul(torch.rand_like(feature)).mean() for feature in features.values()).backward()
    assert [key for key, p in backbone.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize("name", [*NETWORKS, QKVB])
@pytest.mark.parametrize("norm", [True, False])
def test_maps_are_those_of_timms_whole_model(name, norm):
    backbone = make(name, depth=3, blocks=[1], norm=norm).eval()
    whole = timm.create_model(name, **{**TINY, "depth": 3}, dynamic_img_size=True).eval()
    left_out = whole.load_state_dict(backbone.net.state_dict(), strict=False).missing_keys
    assert {key.split(".")[0] for key in left_out} <= {"blocks", "norm", "fc_norm", "head"}
    assert any(key.startswith("blocks.2") for key in left_out)
    assert any(key.startswith("norm") for key in left_out) != norm
    x = torch.randn(1, 3, 56, 112) if "14" in name else torch.randn(1, 3, 48, 112)
    # The norm that was not asked for is a fresh one there, and not applied.
    (expected,) = whole.forward_intermediates(x, indices=[1], norm=norm, intermediates_only=True)
    torch.testing.assert_close(backbone(x)["block1"], expected, atol=1e-5, rtol=1e-5)


def test_blocks_are_named_once_and_in_order():
    backbone = make(depth=4, blocks=[-1, 1, 3])
    assert list(backbone.output_shape()) == list(backbone(torch.randn(1, 3, 32, 32))) == ["block1", "block3"]
    assert list(make(depth=12).output_shape()) == ["block11"]


@pytest.mark.parametrize("dtype", [None, "bf16", "fp16", "auto"])
def test_frozen_whole_it_keeps_nothing(dtype):
    backbone = freeze(make(frozen_dtype=dtype)).train()
    seen = []
    backbone.net.blocks[1].mlp.fc1.register_forward_hook(
        lambda _, __, output: seen.append((output.dtype, torch.is_grad_enabled()))
    )
    head = nn.Conv2d(32, 4, 1)
    with saved_tensors() as saved:
        feature = backbone(torch.randn(2, 3, 64, 48))["block1"]
        assert saved == []
        loss = head(feature).square().mean()
        assert tuple(feature.shape) in saved
    assert feature.dtype == torch.float32
    assert not feature.requires_grad
    low = {None: torch.float32, "fp16": torch.float16}.get(dtype, torch.bfloat16)
    assert seen == [(low, False)]
    loss.backward()
    assert head.weight.grad is not None
    assert all(p.grad is None for p in backbone.parameters())


def test_low_precision_is_near_and_the_same_in_evaluation():
    backbone, exact = make(frozen_dtype="bf16"), make()
    x = torch.randn(1, 3, 64, 48)
    for module in (backbone, exact):
        freeze(module)
    feature, expected = backbone(x)["block1"], exact(x)["block1"]
    assert 0 < (feature - expected).abs().max() < 0.1
    with torch.no_grad():
        assert torch.equal(backbone.eval()(x)["block1"], feature)


def test_low_precision_is_for_what_is_frozen_whole():
    backbone = make(frozen_dtype="bf16", depth=3)
    x = torch.randn(1, 3, 32, 32)
    expected = make(depth=3)(x)["block2"]
    assert torch.equal(backbone(x)["block2"], expected)
    freeze(backbone, unfreeze=["blocks.2"])
    assert torch.equal(backbone(x)["block2"], expected)
    with torch.autocast("cpu", torch.bfloat16):  # the caller's
        assert not torch.equal(backbone(x)["block2"], expected)


def test_an_input_that_asks_for_a_gradient_gets_it():
    backbone = freeze(make())
    x = torch.randn(1, 3, 40, 32, requires_grad=True)
    backbone(x)["block1"].square().mul(torch.rand(3, 2)).sum().backward()
    assert x.grad.abs().sum() > 0
    assert all(p.grad is None for p in backbone.parameters())


def trained(backbone: nn.Module) -> set[str]:
    """Names with a gradient after one step of training; those that should have one and have not are an error."""
    feature = backbone.train()(torch.randn(2, 3, 40, 48))["block1"]
    if feature.requires_grad:
        feature.square().mul(torch.rand_like(feature)).mean().backward()
    names = {key for key, p in backbone.named_parameters() if p.grad is not None and p.grad.any()}
    assert names == {key for key, p in backbone.named_parameters() if p.requires_grad}
    return names


@pytest.mark.parametrize("name", [*NETWORKS, QKVB])
def test_gradients_reach_what_each_adaptation_trains(name):
    assert trained(freeze(make(name))) == set()

    unfrozen = trained(freeze(make(name), unfreeze=["blocks.1", "net.norm"]))
    assert unfrozen
    assert all(key.startswith(("net.blocks.1.", "net.norm.")) for key in unfrozen)

    adapted = lora(freeze(make(name)), targets=ADAPTED, rank=2, alpha=4.0)
    randomize_deltas(adapted)
    layers = {f"net.blocks.{i}.{layer}" for i in range(2) for layer in ADAPTED}
    assert trained(adapted) == {f"{layer}.lora_{factor}" for layer in layers for factor in "ab"}


def test_blocks_below_the_first_that_trains_keep_nothing():
    count = []
    for depth in (2, 6):
        backbone = freeze(make(depth=depth), unfreeze=[f"blocks.{depth - 1}"]).train()
        with saved_tensors() as saved:
            backbone(torch.randn(1, 3, 32, 32))
        count.append(len(saved))
    assert count[0] == count[1] > 0


@pytest.mark.parametrize("name", [*NETWORKS, QKVB])
@pytest.mark.parametrize("target", ADAPTED)
def test_lora_acts_and_merges(name, target):
    base = make(name).eval()
    x = torch.randn(2, 3, 40, 70)
    expected = base(x)["block1"]
    backbone = lora(freeze(copy.deepcopy(base)), targets=[target], rank=2, alpha=4.0).eval()
    assert torch.equal(backbone(x)["block1"], expected)
    randomize_deltas(backbone)
    adapted = backbone(x)["block1"]
    assert (adapted - expected).abs().max() > 1e-2
    merge(backbone)
    torch.testing.assert_close(backbone(x)["block1"], adapted, atol=1e-5, rtol=1e-5)
    unmerge(backbone)
    assert torch.equal(backbone(x)["block1"], adapted)


def test_frozen_parts_stay_as_they_are_in_training():
    backbone = freeze(make("vit_tiny_patch16_224", drop_path_rate=0.5, proj_drop_rate=0.5)).train()
    x = torch.randn(2, 3, 32, 48)
    assert torch.equal(backbone(x)["block1"], backbone(x)["block1"])
    training = make("vit_tiny_patch16_224", drop_path_rate=0.5, proj_drop_rate=0.5).train()
    assert not torch.equal(training(x)["block1"], training(x)["block1"])


def test_the_studys_network_states_what_its_weights_expect():
    with torch.device("meta"):
        backbone = TimmViT("vit_large_patch16_dinov3.lvd1689m")
    assert backbone.output_shape() == {"block23": ShapeSpec(channels=1024, stride=16)}
    assert backbone.channels == {"block23": 1024}
    assert backbone.strides == {"block23": 16}
    assert backbone.mean == (0.485, 0.456, 0.406)
    assert backbone.pixel_std == pytest.approx((58.395, 57.12, 57.375))
    assert "dinov3" in backbone.licence
    assert backbone.model_name == "vit_large_patch16_dinov3.lvd1689m"
    assert round(sum(p.numel() for p in backbone.parameters()) / 1e6) == 303


def test_it_is_built_from_a_config_copied_and_pickled():
    config = LazyCall(freeze)(
        module=LazyCall(TimmViT)(model_name="vit_small_patch16_dinov3", blocks=[0, 1], img_size=[32, 48], **TINY)
    )
    backbone = instantiate(OmegaConf.create(config, flags={"allow_objects": True})).eval()
    assert BACKBONE_REGISTRY.get("TimmViT") is TimmViT
    x = torch.randn(1, 3, 33, 48)
    expected = backbone(x)
    for other in (copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))):
        for key, feature in other(x).items():
            assert torch.equal(feature, expected[key])


@pytest.mark.parametrize("dtype", [None, "bf16"])
def test_torch_can_export_it(dtype):
    backbone = freeze(make(frozen_dtype=dtype)).eval()
    x = torch.randn(1, 3, 60, 80)
    with torch.no_grad():
        program = torch.export.export(backbone, (x,), strict=False)
        x = torch.randn_like(x)
        torch.testing.assert_close(program.module()(x)["block1"], backbone(x)["block1"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["vit_small_patch16_dinov3", "vit_tiny_patch16_224"])
def test_weights_of_timms_whole_model(tmp_path, name):
    sizes = {**TINY, "depth": 4}
    published = timm.create_model(name, **sizes)
    with torch.no_grad():
        for p in published.parameters():
            p.normal_()
    save_file(published.state_dict(), tmp_path / "vit.safetensors")
    backbone = TimmViT(name, blocks=[1], weights=tmp_path / "vit.safetensors", **sizes)
    expected = published.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in backbone.net.state_dict().items())
    save_file(backbone.state_dict(), tmp_path / "own.safetensors")
    again = TimmViT(name, blocks=[1], weights=tmp_path / "own.safetensors", **sizes)
    assert all(torch.equal(value, expected[key]) for key, value in again.net.state_dict().items())
    state = {key: value for key, value in published.state_dict().items() if key != "norm.bias"}
    save_file(state, tmp_path / "vit.safetensors")
    with pytest.raises(ValueError, match=r"missing: norm\.bias"):
        TimmViT(name, blocks=[1], weights=tmp_path / "vit.safetensors", **sizes)


PRETRAINED = """
import loradet, sys, torch
from loradet.backbones import TimmViT
from safetensors.torch import load_file
backbone = TimmViT("test_vit", pretrained=True, cache_dir=sys.argv[1])
expected = load_file(sys.argv[2])
for name, value in backbone.net.state_dict().items():
    assert torch.equal(value, expected[name]), name
"""


@pytest.mark.slow
@pytest.mark.parametrize("dropped", [None, "blocks.1.attn.qkv.weight"])
def test_pretrained_comes_from_the_cache_and_is_never_partly_random(tmp_path, dropped):
    net = timm.create_model("test_vit")
    folder = tmp_path / f"models--{net.pretrained_cfg['hf_hub_id'].replace('/', '--')}"
    snapshot = folder / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0" * 40)
    state = {key: torch.randn_like(value) for key, value in net.state_dict().items()}
    save_file({key: value for key, value in state.items() if key != dropped}, snapshot / "model.safetensors")
    done = subprocess.run(
        [sys.executable, "-c", PRETRAINED, str(tmp_path), str(snapshot / "model.safetensors")],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    if dropped is None:
        assert done.returncode == 0, done.stderr
    else:
        assert "PretrainedWeightsError: The pretrained weights of 'test_vit' cannot be loaded" in done.stderr
        assert f"lacks {dropped}" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"model_name": "vit_smal_patch16_dinov3"}, ValueError, ["vit_small_patch16_dinov3"]),
        ({"model_name": "vit_small_patch16_dinov3.lvd"}, ValueError, ["vit_small_patch16_dinov3.lvd1689m"]),
        ({"model_name": "convnext_atto"}, ValueError, ["convnext_atto", "plain ViT", "TimmBackbone"]),
        ({"model_name": "swin_tiny_patch4_window7_224"}, ValueError, ["plain ViT", "TimmBackbone"]),
        ({"model_name": "beit_base_patch16_224"}, ValueError, ["plain ViT"]),
        ({"model_name": "test_vit", "patch_size": [16, 8]}, ValueError, ["16×8", "square"]),
        ({"model_name": "test_vit2"}, ValueError, ["test_vit2", "norm=False"]),
        ({"model_name": "test_vit", "blocks": []}, ValueError, ["0 … 5"]),
        ({"model_name": "test_vit", "blocks": [6]}, ValueError, ["[6]", "0 … 5", "-6 … -1"]),
        ({"model_name": "test_vit", "blocks": "all"}, ValueError, ["'all'", "list"]),
        ({"model_name": "test_vit", "blocks": -1}, ValueError, ["blocks=-1", "list"]),
        ({"model_name": "test_vit", "frozen_dtype": "half"}, ValueError, ["half", "bf16", "fp16"]),
        ({"model_name": "test_vit", "drop_pth_rate": 0.1}, TypeError, ["drop_pth_rate", "drop_path_rate"]),
        ({"model_name": "test_vit", "out_indices": [1]}, TypeError, ["TimmViT", "out_indices", "blocks"]),
        ({"model_name": "test_vit", "patch_drop_rate": 0.5}, TypeError, ["patch_drop_rate", "all patches"]),
        ({"model_name": "test_vit", "pretrained": True, "weights": "a.pth"}, ValueError, ["a.pth"]),
    ],
)
def test_wrong_arguments_are_named(arguments, error, words):
    with pytest.raises(error) as caught:
        TimmViT(**arguments)
    for word in words:
        assert word in str(caught.value)
