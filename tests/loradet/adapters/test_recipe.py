import copy
import json
import pickle

import pytest
import torch
from helpers.adapter_nets import Backbone, Detector, seeded, state_copy
from torch import nn

from loradet.adapters import adapter_state, freeze, load_adapter_state, lora, merge
from loradet.adapters.recipe import base_tensors, fingerprint


def build(seed: int = 0, unfreeze=(), **options) -> nn.Module:
    return lora(
        freeze(seeded(seed, Backbone), unfreeze), ["fc1"], **{"rank": 2, "alpha": 4.0, "dropout": 0.1, **options}
    )


def test_the_fingerprint_is_of_names_shapes_and_bytes():
    tensors = {"b": torch.arange(6.0), "a": torch.ones(2, dtype=torch.long), "c": torch.tensor(True)}
    first = fingerprint(tensors)
    assert first == fingerprint(dict(sorted(tensors.items()))) and len(first) == 64
    for change in (
        {"b": torch.arange(6.0).view(2, 3)},
        {"b": torch.arange(6.0) + 1e-6},
        {"c": torch.tensor(False)},
        {"d": torch.ones(1)},
    ):
        assert fingerprint({**tensors, **change}) != first
    weight = torch.randn(4, 3, 2, 2)
    assert fingerprint({"w": weight}) == fingerprint({"w": weight.to(memory_format=torch.channels_last)})


def test_the_fingerprint_is_of_the_base_however_it_is_adapted():
    plain = fingerprint(base_tensors(seeded(0, Backbone)))
    for module in (
        build(0),
        build(0, ["stages_1"]),
        freeze(seeded(0, Backbone)),
        lora(seeded(0, Backbone), "fc1", 2, 4.0),
    ):
        assert module.adapter_recipe["fingerprint"] == plain
        assert fingerprint(base_tensors(module)) == plain
    assert build(1).adapter_recipe["fingerprint"] != plain


def test_training_leaves_the_fingerprint():
    net = build(0, ["stages_1"])
    before = net.adapter_recipe["fingerprint"]
    nn.init.normal_(net.stages_1[0].norm.weight)
    nn.init.normal_(net.stages_0[0].mlp.fc1.lora_b)
    net.load_state_dict(state_copy(net))  # a checkpoint of training
    assert net.adapter_recipe["fingerprint"] == before
    assert fingerprint(base_tensors(net)) != before


@pytest.mark.parametrize("copied", [lambda m: m, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
@pytest.mark.parametrize(
    "adapt",
    [build, lambda seed: freeze(seeded(seed, Backbone)), lambda seed: lora(seeded(seed, Backbone), "fc1", 2, 4.0)],
)
@pytest.mark.parametrize("inside", [False, True])
def test_a_base_checkpoint_loaded_later_is_the_base(copied, adapt, inside):
    model = copied(Detector(adapt(1)) if inside else adapt(1))
    base = seeded(0, Detector, seeded(0, Backbone)) if inside else seeded(0, Backbone)
    model.load_state_dict(base.state_dict(), strict=False)
    net = model.backbone.bottom_up if inside else model
    assert net.adapter_recipe["fingerprint"] == fingerprint(base_tensors(seeded(0, Backbone)))


def test_a_base_checkpoint_loads_into_a_merged_model():
    net = build(1).eval()
    nn.init.normal_(net.stages_0[0].mlp.fc1.lora_b)
    merge(net)
    base = seeded(0, Backbone)
    net.load_state_dict(base.state_dict(), strict=False)
    assert net.adapter_recipe["fingerprint"] == fingerprint(base_tensors(base))
    layer = net.stages_0[0].mlp.fc1
    torch.testing.assert_close(layer.weight, base.stages_0[0].mlp.fc1.weight + layer.delta_weight())


def test_loading_what_is_not_the_base_leaves_the_fingerprint():
    model = Detector(build(0, ["stages_1"]))
    net = model.backbone.bottom_up
    before = net.adapter_recipe["fingerprint"]
    nn.init.normal_(net.stages_1[0].norm.weight)
    model.load_state_dict({"head.norm.weight": torch.ones(4)}, strict=False)
    net.load_state_dict({"unknown": torch.ones(4)}, strict=False)
    assert net.adapter_recipe["fingerprint"] == before


def test_states_are_plain_and_travel_with_checkpoints():
    model = Detector(build(0, ["stages_1"]))
    state = json.loads(json.dumps(adapter_state(model)))
    assert list(state) == ["backbone.bottom_up"]
    nn.init.normal_(model.backbone.bottom_up.stages_1[0].norm.weight)
    resumed = Detector(build(5, ["stages_1"]))
    resumed.load_state_dict(model.state_dict())
    load_adapter_state(resumed, state)
    assert adapter_state(resumed) == state
    assert adapter_state(nn.DataParallel(resumed)) == state
    state["backbone.bottom_up"]["lora"].clear()
    assert model.backbone.bottom_up.adapter_recipe["lora"]


def test_a_checkpoint_adapted_in_another_way_is_the_new_base():
    source = build(0, ["stages_1"])
    nn.init.normal_(source.stages_1[0].norm.weight)
    net = build(5)
    net.load_state_dict(source.state_dict())
    load_adapter_state(net, adapter_state(source))
    assert net.adapter_recipe["fingerprint"] == fingerprint(base_tensors(source))
    assert net.adapter_recipe["fingerprint"] != source.adapter_recipe["fingerprint"]


def test_another_alpha_is_an_error_and_an_unadapted_checkpoint_is_none():
    net = build(0)
    with pytest.raises(ValueError, match=r"trained with alpha=8, the model has alpha=4: set alpha=8"):
        load_adapter_state(net, adapter_state(build(0, alpha=8.0)))
    before = adapter_state(net)
    load_adapter_state(net, {})
    assert adapter_state(net) == before


def test_models_on_the_meta_device_are_adapted_without_a_fingerprint():
    with torch.device("meta"):
        net = build(0)
    assert net.adapter_recipe["fingerprint"] is None
    net.to_empty(device="cpu").load_state_dict(build(0).state_dict())
    load_adapter_state(net, adapter_state(build(0)))
    assert net.adapter_recipe["fingerprint"] == build(0).adapter_recipe["fingerprint"]
