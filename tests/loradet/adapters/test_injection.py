import logging

import pytest
import torch
from helpers.adapter_nets import Backbone, Detector, Mlp, randomize_deltas, same_state, seeded, state_copy
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from loradet.adapters import LoRAConv2d, LoRALinear, adapter_layers, freeze, lora, merge, merged_state_dict, unmerge
from loradet.adapters.matching import match_names

BLOCKS = ("stages_0.0", "stages_0.1", "stages_1.0")


def wrapped(module: nn.Module) -> list[str]:
    return [path for path, _ in adapter_layers(module)]


@pytest.mark.parametrize(
    "targets, expected",
    [
        (["mlp.fc1"], [f"{b}.mlp.fc1" for b in BLOCKS]),
        (["fc1"], [f"{b}.{m}.fc1" for b in BLOCKS for m in ("mlp", "xmlp")]),
        ("stem", ["stem"]),
        (["stages_1.0.mlp.fc1", "mlp.fc10"], ["stages_1.0.mlp.fc1", *(f"{b}.mlp.fc10" for b in BLOCKS)]),
        ([r"re:stages_0\..*\.x?mlp\.fc1"], [f"stages_0.{i}.{m}.fc1" for i in (0, 1) for m in ("mlp", "xmlp")]),
        (["conv_dw", "mlp.fc1"], [f"{b}.{n}" for b in BLOCKS for n in ("conv_dw", "mlp.fc1")]),
    ],
)  # fmt: skip
def test_targets_match_whole_components_at_the_end_of_a_path(targets, expected, caplog):
    net = Backbone()
    with caplog.at_level(logging.INFO, logger="loradet.adapters"):
        assert lora(net, targets, rank=2, alpha=4.0) is net
    assert sorted(wrapped(net)) == sorted(expected)
    assert sorted(net.adapter_recipe["lora"][0]["matched"]) == sorted(expected)
    assert f"on {len(expected)} layers" in caplog.text


def test_the_log_of_a_deep_network_is_short(caplog):
    net = nn.ModuleDict({f"stages_{i}": nn.ModuleList(Mlp(2) for _ in range(30)) for i in range(4)})
    with caplog.at_level(logging.INFO, logger="loradet.adapters"):
        freeze(net, unfreeze=["stages_3"])
        lora(net, ["fc1", "re:stages_1.7.fc10"], rank=2, alpha=4.0)
    frozen, wrapped, _memory = (record.getMessage() for record in caplog.records)
    assert frozen.endswith("unfrozen (stages_3): stages_3")
    assert wrapped == (
        "lora: rank 2, alpha 4 on 121 layers (fc1, re:stages_1.7.fc10): stages_{0-3}.{0-29}.fc1 (120), stages_1.7.fc10"
    )


names = st.lists(st.text("ab1", min_size=1, max_size=2), min_size=1, max_size=4)


@given(pattern=names, paths=st.lists(names, min_size=1, max_size=6))
def test_matching_compares_components(pattern, paths):
    expected = [".".join(p) for p in paths if p[-len(pattern) :] == pattern]
    dotted = [".".join(p) for p in paths]
    if expected:
        assert match_names([".".join(pattern)], dotted, argument="x") == {".".join(pattern): expected}
    else:
        with pytest.raises(ValueError, match="names nothing"):
            match_names([".".join(pattern)], dotted, argument="x")


def test_outputs_and_base_keys_are_those_of_the_base_and_checkpoints_load_before_or_after():
    base = seeded(0, Backbone).eval()
    x = torch.randn(2, 3, 16, 16)
    expected = base(x)
    net = lora(freeze(seeded(0, Backbone)), ["fc1", "conv_dw", "stem"], rank=2, alpha=4.0).eval()
    assert torch.equal(net(x), expected)
    late = lora(freeze(seeded(1, Backbone)), ["fc1", "conv_dw", "stem"], rank=2, alpha=4.0).eval()
    report = late.load_state_dict(base.state_dict(), strict=False)
    assert not report.unexpected_keys and all("lora_" in key for key in report.missing_keys)
    assert len(report.missing_keys) == 2 * len(wrapped(net))
    assert torch.equal(late(x), expected)


def test_two_calls_add_to_each_other():
    net = lora(Backbone(), ["fc1"], rank=2, alpha=4.0)
    lora(net, ["conv_dw"], rank=3, alpha=1.0, dropout=0.5)
    assert [(e["targets"], e["rank"], e["dropout"]) for e in net.adapter_recipe["lora"]] == [
        (["fc1"], 2, 0.0),
        (["conv_dw"], 3, 0.5),
    ]
    assert isinstance(net.stages_0[0].conv_dw, LoRAConv2d) and isinstance(net.stages_0[0].mlp.fc1, LoRALinear)


def test_a_module_at_two_paths_is_wrapped_once_and_merged_once():
    net = nn.ModuleDict({"a": nn.Linear(4, 4)})
    net["b"] = net["a"]
    net = randomize_deltas(lora(net, ["a", "b"], rank=2, alpha=4.0))
    base = net["a"].weight.clone()
    merge(net)
    torch.testing.assert_close(net["b"].weight, base + net["a"].delta_weight())
    unmerge(net)
    assert torch.equal(net["b"].weight, base)


def test_references_held_outside_the_module_tree_see_the_delta():
    net = Backbone()
    held = net.stages_0[0].mlp.fc1
    lora(net, ["mlp.fc1"], rank=2, alpha=4.0)
    assert isinstance(held, LoRALinear)


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class WithActivation(nn.Conv2d):
    def forward(self, x):
        return super().forward(x).relu()


class OwnAttention(nn.MultiheadAttention):
    def forward(self, query, key, value):
        return 2 * super().forward(query, key, value)[0], None


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.tied = nn.Linear(4, 4)
        self.tied2 = nn.Linear(4, 4)
        self.tied2.weight = self.tied.weight
        self.doubled = Doubled(4, 4)
        self.activated = WithActivation(4, 4, 1)
        self.grouped = nn.Conv2d(4, 4, 1, groups=2)
        self.conv1d = nn.Conv1d(4, 4, 1)
        self.attention = nn.MultiheadAttention(4, 2)
        self.own_attention = OwnAttention(4, 2)
        self.decorated_attention = nn.utils.parametrizations.weight_norm(nn.MultiheadAttention(4, 2), "in_proj_weight")
        self.other_output = nn.MultiheadAttention(4, 2)
        self.other_output.out_proj = Doubled(4, 4)
        self.tied_attention, self.tied_attention2 = nn.MultiheadAttention(4, 2), nn.MultiheadAttention(4, 2)
        self.tied_attention2.out_proj.weight = self.tied_attention.out_proj.weight
        self.encoder = nn.TransformerEncoderLayer(4, 2, 8)
        self.decorated = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
        self.mlp = Mlp(4)
        self.frozen = freeze(nn.Linear(4, 4))


@pytest.mark.parametrize(
    "target, message",
    [
        ("doubled", "'doubled' .Doubled. .*forward pass of its own"),
        ("activated", "'activated' .WithActivation. .*forward pass of its own"),
        ("grouped", "'grouped' .Conv2d. .*groups=2"),
        ("conv1d", "'conv1d' is a Conv1d; LoRA wraps Linear, Conv2d and MultiheadAttention"),
        ("attention.out_proj", "belongs to a MultiheadAttention, .*: name 'attention' itself"),
        ("own_attention", "'own_attention' .OwnAttention. .*forward pass of its own"),
        ("decorated_attention", "parametrization"),
        ("other_output", "its out_proj is a Doubled"),
        ("tied_attention", "shares its weight with tied_attention2"),
        ("encoder", "'encoder' is a TransformerEncoderLayer; .*encoder.self_attn, encoder.linear1, encoder.linear2"),
        ("linear1", "belongs to TransformerEncoderLayer, whose fused code"),
        ("decorated", "parametrization"),
        ("tied", "shares its weight with tied2"),
        ("mlp", "'mlp' is a Mlp; .*mlp.fc1, mlp.fc10"),
        ("frozen", "'frozen' is frozen by a call of its own"),
        ("re:m.p", "'mlp' is a Mlp; LoRA wraps Linear, Conv2d and MultiheadAttention"),
    ],
)
def test_what_cannot_be_wrapped_is_an_error_that_names_it_and_changes_nothing(target, message):
    net = Odd()
    state = state_copy(net)
    with pytest.raises(ValueError, match=message):
        lora(net, ["linear", target], rank=2, alpha=4.0)
    assert not wrapped(net) and not hasattr(net, "adapter_recipe") and same_state(state, net.state_dict())
    assert net.linear.weight.requires_grad


@pytest.mark.parametrize(
    "target, nearest", [("mlp.fc2", "mlp.fc1"), ("mlp.fc", "mlp.fc10"), ("re:fc1", "stages_1.0.mlp.fc1")]
)
def test_a_target_that_matches_nothing_lists_the_layers_that_there_are(target, nearest):
    with pytest.raises(ValueError, match="names nothing") as error:
        lora(Backbone(), [target], rank=2, alpha=4.0)
    assert nearest in str(error.value) and "drop" not in str(error.value)


def test_other_misuse():
    with pytest.raises(ValueError, match="targets is empty"):
        lora(Backbone(), [], rank=2, alpha=4.0)
    with pytest.raises(ValueError, match="rank=0"):
        lora(Backbone(), ["fc1"], rank=0, alpha=4.0)
    with pytest.raises(TypeError, match="expected names, found 3"):
        lora(Backbone(), ["fc1", 3], rank=2, alpha=4.0)
    net = lora(Backbone(), ["mlp.fc1"], rank=2, alpha=4.0)
    with pytest.raises(ValueError, match=r"'stages_0\.0\.mlp\.fc1' is a LoRALinear already"):
        lora(net, ["fc1"], rank=2, alpha=4.0)
    with pytest.raises(ValueError, match="no LoRA layer"):
        merge(Backbone())
    with pytest.raises(ValueError, match="no LoRA layer"):
        unmerge(freeze(Backbone()))


@pytest.mark.parametrize("rank", [1, 4, 16])
def test_merged_and_unmerged_outputs_agree_and_unmerge_restores_every_bit(rank):
    model = lora(seeded(0, Detector), ["fc1", "fc10", "conv_dw", "stem", "lateral"], rank=rank, alpha=2.0 * rank)
    randomize_deltas(model).eval()
    before = state_copy(model)
    pointers = [p.data_ptr() for p in model.parameters()]
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = model(x)
        assert merge(model) is model
        torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=1e-5)
        assert not torch.equal(model.backbone.lateral.weight, before["backbone.lateral.weight"])
        assert unmerge(model) is model
        assert torch.equal(model(x), expected)
    assert same_state(model.state_dict(), before)
    assert [p.data_ptr() for p in model.parameters()] == pointers


@pytest.mark.parametrize("merged", [False, True])
def test_the_merged_state_dict_loads_into_a_plain_model(merged):
    model = randomize_deltas(lora(seeded(0, Detector), ["fc1", "conv_dw", "stem"], rank=2, alpha=4.0)).eval()
    if merged:
        merge(model)
    plain = seeded(1, Detector).eval()
    plain.load_state_dict(merged_state_dict(model))
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(plain(x), model(x), atol=1e-5, rtol=1e-5)
    assert model.backbone.bottom_up.stem.merged == merged


def test_only_the_delta_gets_gradients_and_one_step_changes_the_output():
    net = randomize_deltas(lora(freeze(Backbone()), ["fc1", "conv_dw"], rank=2, alpha=4.0, dropout=0.1)).train()
    x = torch.randn(2, 3, 16, 16)
    before = net.eval()(x)
    net.train()(x).square().mean().backward()
    graded = {n for n, p in net.named_parameters() if p.grad is not None}
    assert graded == {n for n in dict(net.named_parameters()) if "lora_" in n}
    assert all(p.grad.abs().sum() > 0 for p in net.parameters() if p.grad is not None)
    torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1).step()
    assert not torch.equal(net.eval()(x), before)


def test_a_parameter_count_table_per_rank_is_linear_in_the_rank():
    counts = []
    for rank in (1, 2, 3):
        net = lora(freeze(Backbone()), ["mlp.fc1"], rank=rank, alpha=1.0)
        counts.append(sum(p.numel() for p in net.parameters() if p.requires_grad))
    assert counts == [3 * rank * (8 + 16) for rank in (1, 2, 3)]
