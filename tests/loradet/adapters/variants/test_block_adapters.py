"""Mona and AdaptFormer in timm's blocks: step 0, their formulas by brute force, sizes, where they are and are not."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from helpers.timm_nets import NETS, make_net, randomize
from torch import nn

from loradet.adapters import adapter_layers, adaptformer, freeze, lora, mona, parameter_table
from loradet.backbones import TimmBackbone, TimmViT
from loradet.benchmarks.lora_memory import kept_mib

ADAPTERS = {"mona": mona, "adaptformer": adaptformer}
TOKENS = ["vit", "vit with registers", "eva"]


def outputs(net: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    with torch.no_grad():
        return list(net(x).values())


def close(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> bool:
    return all(torch.allclose(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max())) for a, b in zip(ours, theirs))


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("name", NETS)
def test_the_first_step_is_the_base_for_all_sizes(name, adapter):
    net, x = make_net(name)
    sizes = [x] if name == "swin" else [x, x.transpose(2, 3), x[:, :, :32, :32]]
    expected = [outputs(net, images) for images in sizes]
    keys = set(net.state_dict())
    ADAPTERS[adapter](freeze(net), rank=4)
    assert keys < set(net.state_dict()) and all(layer.is_base for _, layer in adapter_layers(net))
    for images, maps in zip(sizes, expected):
        assert all(map(torch.equal, outputs(net, images), maps))
    randomize(net)
    assert not any(map(torch.equal, outputs(net, x), expected[0]))
    assert not any(layer.is_base for _, layer in adapter_layers(net))


class Nothing(nn.Module):
    """In place of attention or MLP."""

    def forward(self, x, **_):
        return torch.zeros_like(x)


def mona_by_formula(mona: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """x (N, H, W, C) and Mona of it, as the paper writes it."""
    mean, variance = x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)
    normed = (x - mean) / (variance + 1e-5).sqrt() * mona.norm_weight + mona.norm_bias
    hidden = (mona.norm_scale * normed + mona.input_scale * x) @ mona.down_weight.t() + mona.down_bias
    hidden = hidden.permute(0, 3, 1, 2)
    filtered = [
        F.conv2d(hidden, getattr(mona, f"filter{size}_weight")[:, None], padding=size // 2, groups=hidden.shape[1])
        for size in (3, 5, 7)
    ]
    hidden = hidden + sum(filtered) / 3
    hidden = hidden + F.conv2d(hidden, mona.mix_weight[..., None, None])
    return x + F.gelu(hidden).permute(0, 2, 3, 1) @ mona.up_weight.t() + mona.up_bias


def adaptformer_by_formula(adapter: nn.Module, x: torch.Tensor) -> torch.Tensor:
    hidden = torch.relu(x @ adapter.down_weight.t() + adapter.down_bias)
    return hidden @ adapter.up_weight.t() + adapter.up_bias


def block_by_parts(plain: nn.Module, adapted: nn.Module, x: torch.Tensor, grid, prefix: int, **attention):
    """What a block gives, of its own forward pass without its attention, or without its MLP."""
    own = dict(adapted.named_children())
    if hasattr(plain, "conv_dw"):
        if "mona" in own:
            return mona_by_formula(own["mona"], plain(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        y = plain.conv_dw(x)
        normed = plain.norm(y).permute(0, 2, 3, 1) if plain.use_conv_mlp else plain.norm(y.permute(0, 2, 3, 1))
        return plain(x) + 0.1 * adaptformer_by_formula(own["adaptformer"], normed).permute(0, 3, 1, 2)
    no_mlp, no_attention = copy.deepcopy(plain), copy.deepcopy(plain)
    no_mlp.mlp = Nothing()
    no_attention.attn = Nothing()
    attended = no_mlp(x, **attention)
    if "adaptformer" in own:
        return plain(x, **attention) + 0.1 * adaptformer_by_formula(own["adaptformer"], plain.norm2(attended))

    def with_mona(part, tokens):
        if tokens.dim() == 4:
            return mona_by_formula(part, tokens)
        patches = mona_by_formula(part, tokens[:, prefix:].reshape(len(tokens), *grid, -1)).flatten(1, 2)
        return torch.cat([tokens[:, :prefix], patches], dim=1)

    return with_mona(own["mona2"], no_attention(with_mona(own["mona1"], attended)))


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("name", NETS)
def test_the_formula_by_brute_force(name, adapter):
    plain, x = make_net(name)
    net = randomize(ADAPTERS[adapter](freeze(copy.deepcopy(plain)), rank=5))
    prefix = NETS[name][2]
    edge = {"vit with registers": 14}.get(name, 16)
    grid = tuple(-(-size // edge) for size in x.shape[-2:])
    originals = dict(plain.named_modules())
    seen = []

    def compare(path):
        def hook(block, inputs, named, output):
            expected = block_by_parts(originals[path], block, *inputs, grid, prefix, **named)
            torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-4)
            seen.append(path)

        return hook

    for path, block in adapter_layers(net):
        block.register_forward_hook(compare(path), with_kwargs=True)
    outputs(net, x)
    assert len(seen) == len(list(adapter_layers(net))) > 0


@pytest.mark.parametrize("name", NETS)
def test_parameters_by_formula(name):
    for adapter, count in (
        ("mona", lambda c, r: (2 * r + 3) * c + r * r + 84 * r + 2),
        ("adaptformer", lambda c, r: 2 * r * c + r + c),
    ):
        net, _ = make_net(name)
        ADAPTERS[adapter](freeze(net), rank=6)
        channels = [
            next(p for n, p in block.named_parameters() if n.endswith("up_bias")).numel()
            for _, block in adapter_layers(net)
        ]
        each = 2 if adapter == "mona" and "convnext" not in name else 1
        assert parameter_table(net).all.trainable == sum(each * count(c, 6) for c in channels)
        own = [p for _, block in adapter_layers(net) for p in block.adapter_tensors().values()]
        assert sum(p.numel() for p in own) == parameter_table(net).all.trainable
        for _, block in adapter_layers(net):
            assert block.adapter_shapes(6) == {n: tuple(t.shape) for n, t in block.adapter_tensors().items()}


@pytest.mark.parametrize("name", TOKENS)
@torch.no_grad()
def test_tokens_before_the_patches_are_not_touched(name):
    net, x = make_net(name)
    prefix = NETS[name][2]
    randomize(mona(freeze(net), rank=4))
    outputs(net, x)  # so that the blocks know the grid
    block = next(block for _, block in adapter_layers(net))
    block.attn = block.mlp = Nothing()
    rows, columns = block.grid.size
    tokens = torch.randn(2, prefix + rows * columns, 32)
    y = block(tokens)
    assert torch.equal(y[:, :prefix], tokens[:, :prefix])
    assert not torch.isclose(y[:, prefix:], tokens[:, prefix:]).all(dim=-1).any()
    others = tokens.clone()
    others[:, :prefix] += 1
    assert torch.equal(block(others)[:, prefix:], y[:, prefix:])
    with pytest.raises(ValueError, match=rf"given {rows * columns - 1} tokens of patches, but its images have"):
        block(tokens[:, 1:])


def test_blocks_run_again_know_which_images_they_are_of():
    """Two shapes with as many patches, and both forward passes before the backward pass."""
    gradients = []
    for checkpoint in (False, True):
        torch.manual_seed(0)
        net = TimmViT("vit_small_patch16_dinov3", embed_dim=32, depth=2, num_heads=2, checkpoint=checkpoint)
        randomize(mona(freeze(net), rank=4, dropout=0.0)).train()
        images = torch.randn(1, 3, 32, 64, generator=torch.Generator().manual_seed(0))
        maps = [net(one)["block1"].square().mean() for one in (images, images.transpose(2, 3))]
        sum(maps).backward()
        gradients.append([p.grad for p in net.parameters() if p.requires_grad])
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-7) for a, b in zip(*gradients))


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("name", ["eva", "swin", "convnext"])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies(name, adapter, copied):
    net, x = make_net(name)
    randomize(ADAPTERS[adapter](freeze(net), rank=3))
    twin = copied(net)
    assert all(map(torch.equal, outputs(twin, x), outputs(net, x)))
    if name != "swin":
        before = outputs(net, x.transpose(2, 3))
        outputs(twin, x)  # of another size, which is none of the first one's business
        assert all(map(torch.equal, outputs(net, x.transpose(2, 3)), before))
    randomize(twin, 2)
    assert not any(map(torch.equal, outputs(twin, x), outputs(net, x)))


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("order", ["freeze first", "freeze last"])
@pytest.mark.parametrize("unfreeze", [[], ["stages_3"], ["kind:bias"]])
def test_it_composes_with_freeze(adapter, order, unfreeze):
    plain, x = make_net("convnext")
    net = copy.deepcopy(plain)
    if order == "freeze first":
        ADAPTERS[adapter](freeze(net, unfreeze), rank=3, dropout=0.5)
    else:
        freeze(ADAPTERS[adapter](net, rank=3, dropout=0.5), unfreeze)
    base = {n for n, p in freeze(copy.deepcopy(plain), unfreeze).named_parameters() if p.requires_grad}
    trains = {n for n, p in net.named_parameters() if p.requires_grad}
    assert {n for n in trains if f".{adapter}." not in n} == base and len(trains) > len(base)
    randomize(net).train()
    own = [m for n, m in net.named_modules() if n.endswith(f".{adapter}")]
    assert all(m.training for m in own) and len(own) == 4
    assert any(m.training for n, m in net.named_modules() if n.endswith("mlp")) == (unfreeze == ["stages_3"])
    if not unfreeze:
        assert not any(m.training for m in net.modules() if m not in own)
    assert not any(map(torch.equal, outputs(net, x), outputs(net, x)))  # its own dropout
    net.eval()
    assert all(map(torch.equal, outputs(net, x), outputs(net, x)))


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("name", ["eva", "convnext", "swin"])
def test_it_composes_with_lora_in_the_same_blocks_which_stays_lean(name, adapter):
    gradients, kept = [], []
    for memory in ("plain", "lean"):
        net, x = make_net(name)
        lora(freeze(net), ["mlp.fc1", "mlp.fc2"], rank=2, alpha=4.0, memory=memory)
        randomize(ADAPTERS[adapter](net, rank=3, dropout=0.0)).train()
        kept.append(kept_mib(net, x))
        gradients.append({n: p.grad for n, p in net.named_parameters() if p.requires_grad})
    assert all(grad is not None for grad in gradients[1].values())
    for key, grad in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], grad, rtol=1e-4, atol=1e-6)
    assert kept[1] < kept[0]


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_targets_name_modules_with_all_blocks_in_them(adapter):
    net, _ = make_net("convnext")
    ADAPTERS[adapter](freeze(net), rank=2, targets=["stages_3", r"re:.*stages_1\.blocks\.0"])
    assert [path.split(".")[-3] for path, _ in adapter_layers(net)] == ["stages_1", "stages_3"]
    (entry,) = net.adapter_recipe["lora"]
    assert entry["variant"] == adapter and entry["rank"] == 2 and len(entry["matched"]) == 2
    assert entry["alpha"] == pytest.approx(2.0 if adapter == "mona" else 0.2)


def test_two_kinds_of_adapters_in_one_network():
    net, x = make_net("convnext")
    before = outputs(net, x)
    adaptformer(mona(freeze(net), rank=2, targets=["stages_0"]), rank=3, targets=["stages_1", "stages_2", "stages_3"])
    assert all(map(torch.equal, outputs(net, x), before))
    assert [layer.unmergeable for _, layer in adapter_layers(net)] == ["Mona"] + 3 * ["AdaptFormer"]


REFUSED = {
    "unknown name": (dict(rank=2, targets=["stages_9"]), "targets: 'stages_9' names nothing here"),
    "no block": (dict(rank=2, targets=["stem_0"]), r"'stem_0' names no block that \w+ supports: in it there is Conv2d"),
    "empty": (dict(rank=2, targets=[]), "targets is empty"),
    "rank": (dict(rank=0), "rank=0"),
    "dropout": (dict(rank=2, dropout=1.0), r"dropout=1.0"),
}


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("case", REFUSED)
def test_bad_arguments_change_nothing(case, adapter):
    net, _ = make_net("convnext")
    classes = [type(module) for module in net.modules()]
    options, words = REFUSED[case]
    with pytest.raises(ValueError, match=words):
        ADAPTERS[adapter](net, **options)
    assert [type(module) for module in net.modules()] == classes and not hasattr(net, "adapter_recipe")


def test_other_blocks_are_refused_by_name():
    net = TimmBackbone("resnet18", layers=(1, 1, 1, 1), channels=(8, 8, 8, 8), out_features=["stage1"])
    with pytest.raises(ValueError, match=r"there is .*BasicBlock.* It takes timm's blocks: .*EvaBlock.*ConvNeXtBlock"):
        mona(net, rank=2)
    with pytest.raises(ValueError, match=r"scale=0; expected a number above 0"):
        adaptformer(make_net("eva")[0], rank=2, scale=0)
    net, _ = make_net("eva")
    with pytest.raises(ValueError, match=r"no patch_embed around them"):
        mona(net.net.blocks, rank=2)
    assert not hasattr(net.net.blocks, "adapter_recipe")
    mona(net, rank=2, targets=["blocks.0"])
    with pytest.raises(ValueError, match=r"'net.blocks.0' is a block with Mona already"):
        adaptformer(net, rank=2)


def test_a_block_of_another_timm_is_refused(monkeypatch):
    from timm.models.convnext import ConvNeXtBlock

    net, _ = make_net("convnext")
    theirs = ConvNeXtBlock.forward
    monkeypatch.setattr(ConvNeXtBlock, "forward", lambda self, x: self.gate(theirs(self, x)))
    with pytest.raises(ValueError, match=r"forward pass of this timm reads gate, which loradet does not know of"):
        mona(net, rank=2)
    monkeypatch.undo()
    next(m for m in net.modules() if isinstance(m, ConvNeXtBlock)).forward = lambda x: x
    with pytest.raises(ValueError, match="somebody has replaced its forward pass"):
        mona(net, rank=2)


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("name", ["eva", "convnext"])
def test_autocast_and_channels_last(name, adapter):
    net, x = make_net(name)
    randomize(ADAPTERS[adapter](freeze(net), rank=3))
    expected = outputs(net, x)
    net = net.to(memory_format=torch.channels_last)
    assert close(outputs(net, x.contiguous(memory_format=torch.channels_last)), expected)
    with torch.autocast("cpu", torch.bfloat16):
        for ours, exact in zip(outputs(net, x), expected):
            assert float((ours - exact).abs().max()) < 0.05 * float(exact.abs().max())
