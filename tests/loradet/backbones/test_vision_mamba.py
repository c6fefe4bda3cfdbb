"""VisionMamba as a backbone: sizes, precision, adaptation."""

import copy
import pickle

import pytest
import torch
from detectron2.config import LazyCall, LazyConfig, instantiate
from detectron2.modeling import BACKBONE_REGISTRY
from helpers.paths import ROOT
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from loradet.adapters import adapter_layers, freeze, load_adapter, lora, merge, save_adapter, unmerge
from loradet.backbones import VisionMamba
from loradet.config.edits import without_weights

SIZES = dict(img_size=32, patch_size=8, embed_dim=16, depth=3, d_state=4)
PROJECTIONS = ["in_proj", "out_proj", "x_proj", "x_proj_b", "dt_proj", "dt_proj_b"]


def build(**changes) -> VisionMamba:
    """A net whose scans matter: what comes out of a fresh one is almost the patches."""
    torch.manual_seed(0)
    net = VisionMamba(random_weights=True, **(SIZES | changes))
    for layer in net.layers:
        for name in PROJECTIONS:
            torch.nn.init.normal_(getattr(layer.mixer, name).weight, std=0.2)
    return net


def image(height: int = 32, width: int = 32, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("stride", "size", "grid"),
    [(8, (32, 32), (4, 4)), (8, (24, 72), (3, 9)), (4, (32, 48), (7, 11)), (4, (8, 8), (1, 1))],
)
def test_output_has_the_true_stride(stride, size, grid):
    net = build(stride=stride).eval()
    ((name, feature),) = net(image(*size)).items()
    (shape,) = net.output_shape().values()
    assert name == "last_feat"
    assert feature.shape == (2, shape.channels, *grid)
    assert shape.stride == net.size_divisibility == stride
    # A pixel belongs to the patches that cover it, spaced by the stride that is reported.
    changed = image(*size)
    changed[..., -1, -1] += 10
    tokens = (net.patch_embed(changed) - net.patch_embed(image(*size))).abs().sum((0, 2)).unflatten(0, grid)
    covering = torch.zeros(grid, dtype=torch.bool)
    covering[-1, -1] = True
    assert torch.equal(tokens > 0, covering)


def test_other_sizes_get_the_position_embedding_resized():
    net = build().eval()
    for layer in net.layers:  # what is left is patches and positions
        torch.nn.init.zeros_(layer.mixer.out_proj.weight)
    (small,), (wide,) = net(image() * 0).values(), net(image(32, 64) * 0).values()
    positions = net.pos_embed.detach().transpose(1, 2).unflatten(2, (4, 4))
    bias = net.patch_embed.proj.bias.detach().view(1, -1, 1, 1)
    torch.testing.assert_close(small[:1] - bias, positions)
    expected = torch.nn.functional.interpolate(positions, size=(4, 8), mode="bicubic", align_corners=False)
    torch.testing.assert_close(wide[:1] - bias, expected)


def test_rotary_angles_depend_on_the_place_alone():
    net = build(if_rope=True, if_rope_residual=True).eval()
    assert net(image(24, 40))["last_feat"].shape == (2, 16, 3, 5)
    tokens = torch.randn(1, 16, 16)
    turned = net.rope(tokens, net.rope.tables((4, 4)))
    torch.testing.assert_close(turned.norm(dim=2), tokens.norm(dim=2))
    assert torch.equal(turned[:, 0], tokens[:, 0])  # row 0, column 0: no angle


def test_both_directions_are_read():
    net = build(depth=1).eval()
    for place in (0, 15):
        tokens = torch.zeros(1, 16, 16, requires_grad=True)
        hidden, _ = net.forward_tokens(torch.randn(1, 16, 16) + tokens, (4, 4))
        (gradient,) = torch.autograd.grad(hidden[:, 15 - place].square().sum(), tokens)
        assert gradient[:, place].abs().sum() > 0


@pytest.mark.parametrize("case", ["autocast", "bfloat16"])
def test_residual_is_kept_in_float32(case):
    net = build().eval()
    (exact,) = net(image()).values()
    if case == "bfloat16":
        net = net.bfloat16()
    residuals, hiddens = [], []

    def keep(_, __, output):
        hiddens.append(output[0])
        residuals.append(output[1])

    for layer in net.layers:
        layer.register_forward_hook(keep)
    with torch.autocast("cpu", torch.bfloat16, enabled=case == "autocast"):
        (feature,) = net(image().to(net.pos_embed.dtype)).values()
    assert {x.dtype for x in residuals} == {torch.float32}
    assert {x.dtype for x in hiddens} == {torch.bfloat16}
    assert (feature - exact).abs().max() <= 3e-2 * exact.abs().max()


def test_drop_path_spares_the_first_blocks():
    net = build(depth=4, drop_path_rate=0.9).train()
    torch.manual_seed(3)
    outputs = [net(image())["last_feat"] for _ in range(4)]
    assert not all(torch.equal(outputs[0], x) for x in outputs)
    shallow = build(depth=2, drop_path_rate=0.9).train()
    assert torch.equal(*(shallow(image())["last_feat"] for _ in range(2)))
    net.eval()
    assert torch.equal(*(net(image())["last_feat"] for _ in range(2)))


def test_every_parameter_gets_a_gradient():
    net = build()
    net(image())["last_feat"].square().sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


def with_lora(targets=PROJECTIONS, **options) -> VisionMamba:
    net = lora(freeze(build(), unfreeze=[]), targets=targets, rank=2, alpha=4.0, **options)
    for _, layer in adapter_layers(net):
        torch.nn.init.normal_(layer.lora_b, std=0.3)
    return net


def test_lora_acts_on_every_projection():
    net = with_lora().train()
    layers = dict(adapter_layers(net))
    assert len(layers) == SIZES["depth"] * len(PROJECTIONS)
    net(image())["last_feat"].square().sum().backward()
    silent = [name for name, p in net.named_parameters() if "lora_" in name and (p.grad is None or not p.grad.any())]
    assert silent == []
    assert all(p.grad is None for name, p in net.named_parameters() if "lora_" not in name)


@pytest.mark.parametrize("target", PROJECTIONS)
def test_merged_equals_unmerged(target):
    base = build().eval()(image())["last_feat"]
    net = with_lora([target]).eval()
    unmerged = net(image())["last_feat"]
    assert (unmerged - base).abs().max() > 1e-3  # the adapter does something
    merge(net)
    torch.testing.assert_close(net(image())["last_feat"], unmerged, rtol=1e-5, atol=1e-5)
    unmerge(net)
    assert torch.equal(net(image())["last_feat"], unmerged)


def test_adapter_round_trip(tmp_path):
    net = with_lora().eval()
    save_adapter(net, tmp_path / "adapter.safetensors")
    other = lora(freeze(build(), unfreeze=[]), targets=PROJECTIONS, rank=2, alpha=4.0).eval()
    load_adapter(other, tmp_path / "adapter.safetensors")
    assert torch.equal(other(image())["last_feat"], net(image())["last_feat"])


def test_a_frozen_backbone_keeps_nothing():
    kept = []
    net = freeze(build(), unfreeze=[]).train()
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        (feature,) = net(image()).values()
    assert not kept
    assert not feature.requires_grad
    partial = freeze(build(drop_path_rate=0.5), unfreeze=["layers.2"]).train()
    partial(image())["last_feat"].sum().backward()
    trained = {name for name, p in partial.named_parameters() if p.grad is not None}
    assert trained == {name for name, _ in partial.named_parameters() if name.startswith("layers.2.")}


def test_gradient_checkpointing():
    net = build()
    net(image())["last_feat"].square().sum().backward()
    expected = {name: p.grad.clone() for name, p in net.named_parameters()}
    net.zero_grad()
    for layer in net.layers:
        layer.forward = lambda *x, run=layer.forward: checkpoint(run, *x, use_reentrant=False)
    net(image())["last_feat"].square().sum().backward()
    for name, p in net.named_parameters():
        torch.testing.assert_close(p.grad, expected[name], msg=name)


def test_compiles():
    net = build(depth=1).eval()
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(image())["last_feat"], net(image())["last_feat"])
    torch.compiler.reset()


def test_copies_and_configs():
    net = build().eval()
    (expected,) = net(image()).values()
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(other(image())["last_feat"], expected)
    from_config = instantiate(LazyCall(VisionMamba)(random_weights=True, **(SIZES | {"img_size": [32, 32]}))).eval()
    from_config.load_state_dict(net.state_dict())
    assert torch.equal(from_config(image())["last_feat"], expected)
    assert BACKBONE_REGISTRY.get("VisionMamba") is VisionMamba


def test_a_config_without_weights_builds(caplog):
    """As tools build a model whose own checkpoint they load next."""
    config = LazyCall(VisionMamba)(weights="ckpts/vim_tiny_pretrained.pth", **SIZES)
    with caplog.at_level("WARNING"):
        net = instantiate(without_weights(config))
    assert any("random weights" in message for message in caplog.messages)
    net.load_state_dict(build().state_dict())
    assert config.weights == "ckpts/vim_tiny_pretrained.pth"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stride": 9}, "stride=9; expected 1 to patch_size=8"),
        ({"stride": 0}, "stride=0"),
        ({"depth": 0}, "depth=0"),
        ({"last_layer_process": "norm"}, "last_layer_process='norm'; expected one of add, none"),
        ({"if_rope_residual": True}, "needs if_rope=True"),
        ({"if_rope": True, "embed_dim": 18}, "18 channels: expected a multiple of 4"),
        ({"img_size": 4}, "4×4 is smaller than a 8 px patch"),
        ({"scan": "fast"}, "scan='fast'; expected one of auto, chunked, mamba_ssm"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        build(**change)


def test_an_image_smaller_than_a_patch():
    with pytest.raises(ValueError, match="7×40 is smaller than a 8 px patch"):
        build()(image(7, 40))


def test_the_documented_settings_for_a_backbone_that_trains(tmp_path):
    lines = (ROOT / "docs" / "vision_mamba.md").read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if "import vim_lr_factors" in line)
    cfg = LazyConfig.load(str(ROOT / "configs" / "vim_ofat" / "base.py"))
    shown = "\n".join(line.strip() for line in lines[start : lines.index("", start + 2)])
    exec(shown, {"L": LazyCall, "model": cfg.model, "optimizer": cfg.optimizer})
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    cfg = LazyConfig.load(str(tmp_path / "config.yaml"))  # as a run leaves it
    cfg.model.backbone.net.module = LazyCall(VisionMamba)(random_weights=True, **SIZES | {"depth": 24})

    net = instantiate(cfg.model.backbone.net)
    detector = nn.ModuleDict({"backbone": nn.ModuleDict({"net": net}), "head": nn.Linear(2, 2)})
    cfg.optimizer.params.model = detector
    optimizer = instantiate(cfg.optimizer)
    groups = {id(x): group for group in optimizer.param_groups for x in group["params"]}
    undecayed = {name for name, x in net.named_parameters() if groups[id(x)]["weight_decay"] == 0}
    assert undecayed == net.no_weight_decay()
    rates = {name: groups[id(x)]["lr"] / cfg.optimizer.lr for name, x in detector.named_parameters()}
    factors = {"head.weight": 1, "backbone.net.layers.23.mixer.D": 0.8, "backbone.net.pos_embed": 0.8**25}
    assert {name: rates[name] for name in factors} == pytest.approx(factors)
