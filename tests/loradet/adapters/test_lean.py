"""What is recognised keeps less for backward, and gives the plain code's numbers."""

import copy
import logging
import pickle

import pytest
import torch
from helpers.adapter_nets import randomize_deltas, seeded
from helpers.lean_nets import (
    Sequence,
    adapted,
    assert_same,
    convnext,
    images,
    loss_of,
    saved_mb,
    step,
    transformer,
    vit,
)
from torch import nn

from loradet.adapters import AdapterBank, adapter_layers, freeze, load_adapter, lora, merge, save_adapter, unmerge

MLP = ["mlp.fc1", "mlp.fc2"]
CASES = {
    "ConvNeXt": (convnext, MLP, {}),
    "ConvNeXt, fc1": (convnext, ["mlp.fc1"], {}),
    "ConvNeXt, fc2": (convnext, ["mlp.fc2"], {}),
    "ConvNeXt, one stage": (convnext, ["stages_2.blocks.0.mlp.fc1", "stages_2.blocks.1.mlp.fc2"], {}),
    "ConvNeXt, dropout": (convnext, MLP, {"dropout": 0.3}),
    "ConvNeXt, unfrozen stage": (convnext, MLP, {"unfreeze": ["stages_2"]}),
    "ConvNeXt, unfrozen base": (convnext, MLP, {"unfreeze": None, "freeze_base": False}),
    "ConvNeXt, drop path": (lambda: convnext(drop_path_rate=0.5), MLP, {"unfreeze": None}),
    "ConvNeXt of 1x1": (lambda: convnext(conv_mlp=True), MLP, {}),
    "ConvNeXt of 1x1, fc2": (lambda: convnext(conv_mlp=True), ["mlp.fc2"], {}),
    "ConvNeXt of 1x1, dropout": (lambda: convnext(conv_mlp=True), MLP, {"dropout": 0.3}),
    "ConvNeXt of 1x1, unfrozen base": (
        lambda: convnext(conv_mlp=True),
        MLP,
        {"unfreeze": None, "freeze_base": False},
    ),
    "ConvNeXt, channels first": (lambda: convnext(channels_last=False), MLP, {}),
    "ConvNeXt of 1x1, channels first": (lambda: convnext(conv_mlp=True, channels_last=False), MLP, {}),
    "ConvNeXt, ReLU": (lambda: convnext(act_layer=nn.ReLU), MLP, {}),
    "ConvNeXt, SiLU": (lambda: convnext(act_layer=nn.SiLU), MLP, {}),
    "ConvNeXt V2": (lambda: convnext(use_grn=True), MLP, {}),
    "ConvNeXt, depthwise too": (convnext, [*MLP, "conv_dw"], {}),
    "ViT": (vit, ["attn.qkv", "attn.proj", *MLP], {}),
    "ViT, dropout": (lambda: vit(proj_drop_rate=0.2), ["attn.qkv", *MLP], {"dropout": 0.3, "unfreeze": ["blocks.1"]}),
    "EVA": (lambda: vit("vit_small_patch16_dinov3"), ["attn.qkv", "attn.proj", *MLP], {}),
    "DETR's transformer": (transformer, ["linear1", "linear2", "self_attn"], {}),
    "DETR's transformer, fc1": (transformer, ["linear1"], {}),
    "DETR's transformer, unfrozen": (lambda: transformer("gelu", True), ["linear1", "linear2"], {"unfreeze": None}),
    "DoRA": (convnext, MLP, {"variant": "dora"}),
    "DoRA of 1x1, dropout": (lambda: convnext(conv_mlp=True), MLP, {"variant": "dora", "dropout": 0.3}),
    "DoRA, unfrozen base": (convnext, MLP, {"variant": "dora", "unfreeze": None, "freeze_base": False}),
    "DoRA, ViT": (vit, ["attn.qkv", "attn.proj", *MLP], {"variant": "dora"}),
    "PiSSA": (convnext, MLP, {"variant": "pissa"}),
    "a module of one's own": (Sequence, ["inner.1", "inner.3", "last.1", "last.3"], {}),
}


@pytest.mark.parametrize("case", CASES)
def test_loss_and_every_gradient_are_those_of_plain(case):
    build, targets, options = CASES[case]
    plain = adapted(build, targets, "plain", **options)
    x = images()
    expected = [step(plain, x), step(plain, x, torch.bfloat16), loss_of(plain.eval(), x)]
    for memory in ("lean", "least"):
        ours = adapted(build, targets, memory, **options)
        assert ours.state_dict().keys() == plain.state_dict().keys()
        assert_same(step(ours, x), expected[0], 1e-6)
        assert_same(step(ours, x, torch.bfloat16), expected[1], 2e-2)
        assert torch.equal(loss_of(ours.eval(), x), expected[2])


def blocks(**kwargs) -> nn.Module:
    """A ConvNeXt in which the blocks outweigh what lies between them."""
    return convnext(depths=(4, 2, 2, 1), dims=(16, 24, 32, 40), out_features=["stage3"], **kwargs)


@pytest.mark.parametrize(
    "build, targets, lean, least",
    [
        (blocks, MLP, 0.50, 0.20),
        (blocks, ["mlp.fc2"], 0.57, 0.25),
        (lambda: blocks(conv_mlp=True), MLP, 0.50, 0.20),
        (lambda: blocks(act_layer=nn.SiLU), MLP, 0.50, 0.20),
        (*CASES["ViT"][:2], 0.67, 0.43),
        (*CASES["EVA"][:2], 0.73, 0.52),
        (*CASES["DETR's transformer, fc1"][:2], 0.97, 0.75),
        (*CASES["a module of one's own"][:2], 0.61, 0.61),
    ],
    ids=["ConvNeXt", "ConvNeXt, fc2", "ConvNeXt of 1x1", "ConvNeXt, SiLU", "ViT", "EVA", "DETR", "own"],
)
def test_what_is_kept(build, targets, lean, least):
    nets = [adapted(build, targets, memory) for memory in ("plain", "lean", "least")]
    for dtype in (None, torch.bfloat16):
        plain, *ours = [saved_mb(net, images(), dtype) for net in nets]
        assert ours[0] <= lean * plain and ours[1] <= least * plain


def test_what_was_recognised_is_one_line_of_the_log(caplog):
    with caplog.at_level(logging.INFO, logger="loradet.adapters"):
        adapted(convnext, MLP, "lean")
        adapted(lambda: nn.Sequential(nn.Linear(4, 4)), ["0"], "lean")
        adapted(convnext, MLP, "plain")
    lines = [line for line in caplog.messages if line.startswith("lora: memory")]
    assert lines[0].startswith("lora: memory lean: 5 MLPs, 9 frozen convolutions, ")
    assert lines[1:] == ["lora: memory lean: nothing recognised, all is kept"]


def test_another_word_is_refused_before_anything_changes():
    net = convnext()
    with pytest.raises(ValueError, match=r"memory='leaner'; expected one of lean, least, plain\."):
        lora(net, MLP, 2, 4.0, memory="leaner")
    assert not list(adapter_layers(net))


@pytest.mark.parametrize("build", [convnext, vit], ids=["ConvNeXt", "ViT"])
def test_a_second_derivative_is_refused_by_name(build):
    net = adapted(build, MLP, "lean")
    with pytest.raises(ValueError, match=r"cannot be differentiated twice .*lora\(\.\.\., memory=\"plain\"\)"):
        torch.autograd.grad(loss_of(net, images()), [p for p in net.parameters() if p.requires_grad], create_graph=True)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))], ids=["deepcopy", "pickle"]
)
def test_copies_stay_lean_and_stand_on_their_own(copied):
    net = adapted(convnext, MLP, "lean")
    expected, kept = step(net, images()), saved_mb(net, images())
    twin = copied(net)
    for parameter in net.parameters():
        parameter.data.zero_()
    assert_same(step(twin, images()), expected, 0.0)
    assert saved_mb(twin, images()) == kept


def test_merged_and_without_gradients_the_plain_code_runs():
    net, plain = (adapted(convnext, MLP, mode) for mode in ("lean", "plain"))
    with torch.no_grad():
        assert torch.equal(loss_of(net, images()), loss_of(plain, images()))
    before = step(net, images())
    merge(net)
    with pytest.raises(RuntimeError, match="This model is merged"):
        loss_of(net, images())
    assert torch.equal(loss_of(net.eval(), images()), loss_of(merge(plain).eval(), images()))
    assert_same(step(unmerge(net).train(), images()), before, 0.0)


def test_whoever_hooks_a_layer_is_called():
    net = adapted(convnext, MLP, "lean")
    block = net.net.stages_2.blocks[1].mlp
    expected, seen = step(net, images()), []
    for layer in (block.fc1, block.act, block.fc2):
        layer.register_forward_hook(lambda module, _, output: seen.append((module, output.shape[-1])))
    assert_same(step(net, images()), expected, 1e-6)
    assert [width for _, width in seen] == [96, 96, 24]


def test_a_second_call_wraps_what_the_first_left_and_may_ask_for_other_memory():
    def twice(memory):
        net = adapted(convnext, ["mlp.fc1"], memory)
        lora(net, ["mlp.fc2", "conv_dw"], 2, 4.0, memory=memory)
        return randomize_deltas(net).train()

    ours, plain = twice("least"), twice("plain")
    for net in (ours, plain):  # seeds of the second call differ
        net.load_state_dict(ours.state_dict())
    assert_same(step(ours, images()), step(plain, images()), 1e-6)


def test_an_input_that_was_written_into_is_kept_itself():
    class Writes(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.fc = nn.LayerNorm(8), nn.Linear(8, 8)

        def forward(self, x):
            return {"y": self.fc(self.norm(x).mul_(3.0))}

    ours, plain = (adapted(Writes, ["fc"], mode, unfreeze=None) for mode in ("lean", "plain"))
    x = torch.randn(5, 8)
    assert_same(step(ours, x), step(plain, x), 1e-6)


def test_what_a_module_puts_out_is_saved_without_its_source(tmp_path):
    net = adapted(Sequence, ["inner.1"], "lean")
    y = net.inner[0](torch.randn(4, 16, requires_grad=True))
    torch.save(y, tmp_path / "y.pt")
    assert torch.equal(torch.load(tmp_path / "y.pt", weights_only=True), y) and not vars(y)


@pytest.mark.parametrize("padding", [{"padding": "same"}, {"padding": 1, "padding_mode": "reflect"}, {"stride": 2}])
def test_frozen_convolutions_of_every_geometry(padding):
    def build():
        return nn.ModuleDict(
            {"y": nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 6, 3, dilation=2, groups=2, **padding))}
        )

    nets = []
    for memory in ("lean", "plain"):
        net = adapted(build, ["y.0"], memory)
        net.forward = lambda x, net=net: {"y": net["y"](x)}
        nets.append(step(net, images()))
    assert_same(*nets, 1e-6)


def test_a_base_that_is_written_into_before_backward_is_an_error():
    net = adapted(convnext, MLP, "lean")
    loss = loss_of(net, images())
    with torch.no_grad():
        net.net.stages_3.blocks[0].mlp.fc1.lora_a.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_accumulated_and_repeated_backward_passes():
    ours, plain = (adapted(convnext, MLP, mode) for mode in ("lean", "plain"))
    gradients = []
    for net in (ours, plain):
        for seed in (0, 1):
            loss = loss_of(net, seeded(seed, torch.randn, 2, 3, 64, 64))
            loss.backward(retain_graph=True)
            loss.backward()
        gradients.append((0.0, {name: p.grad for name, p in net.named_parameters() if p.grad is not None}))
    assert_same(*gradients, 1e-6)


def test_an_adapter_file_and_a_bank_know_nothing_of_it(tmp_path):
    ours, plain = (adapted(convnext, MLP, mode) for mode in ("least", "plain"))
    for net, name in ((ours, "ours"), (plain, "plain")):
        save_adapter(net, tmp_path / name, classes=["ship"])
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "plain").read_bytes()
    fresh = seeded(1, lora, freeze(seeded(0, convnext)), MLP, 3, 6.0).train()
    load_adapter(fresh, tmp_path / "ours")
    assert_same(step(fresh, images()), step(plain, images()), 1e-6)
    bank = AdapterBank(seeded(1, lora, freeze(seeded(0, convnext)), MLP, 5, 10.0).train())
    bank.add("ours", tmp_path / "ours")
    bank.activate("ours")
    assert_same(step(bank._model, images()), step(plain, images()), 1e-6)


def test_data_parallel_training_gives_the_same_gradients(tmp_path):
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        ours, plain = (adapted(convnext, MLP, mode) for mode in ("lean", "plain"))
        expected = step(plain, images())
        wrapped = nn.parallel.DistributedDataParallel(ours)
        for _ in range(2):  # the second time the reducer knows the order of the gradients
            loss, gradients = step(wrapped, images())
            assert_same((loss, {name.removeprefix("module."): g for name, g in gradients.items()}), expected, 1e-6)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_under_torch_compile_the_compiler_decides_what_is_kept():
    ours, plain = (adapted(convnext, MLP, mode) for mode in ("lean", "plain"))
    compiled = torch.compile(ours, backend="aot_eager", fullgraph=True)
    loss, gradients = step(compiled, images())
    assert_same(
        (loss, {name.removeprefix("_orig_mod."): g for name, g in gradients.items()}), step(plain, images()), 1e-5
    )
