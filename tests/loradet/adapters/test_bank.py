import json

import pytest
import safetensors.torch
import torch
from helpers.adapter_nets import Backbone, Detector, randomize_deltas, same_state, seeded, state_copy
from torch.nn.parallel import DataParallel

from loradet.adapters import (
    AdapterBank,
    AdapterError,
    adapter_layers,
    adapter_state,
    freeze,
    load_adapter,
    lora,
    merge,
    read_adapter,
    save_adapter,
    unmerge,
)

IMAGES = torch.linspace(-2, 2, 2 * 3 * 16 * 16).view(2, 3, 16, 16)


def build(*, base_seed=0, unfreeze=(), targets=("mlp.fc1", "conv_dw"), rank=2, alpha=4.0, classes=2, **options):
    backbone = freeze(seeded(base_seed, Backbone), unfreeze)
    lora(backbone, targets, rank=rank, alpha=alpha, **options)
    return seeded(3, Detector, backbone, classes).eval()


def trained(seed: int, **options) -> Detector:
    """As after training: every tensor that trains, and the running statistics, have other values."""
    model = randomize_deltas(build(**options), seed)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    model.head.norm.running_mean += seed
    return model


STAGE = dict(unfreeze=["stages_1"])
BASE = dict(unfreeze=["stages_1"], freeze_base=False)
# What the model is built with, and two files.
SETS = {
    "same recipe": (dict(), dict(), dict()),
    "other ranks": (dict(), dict(rank=4, alpha=2.0), dict(rank=1, alpha=8.0)),
    "other words and dropout": (dict(), dict(rank=3, dropout=0.2), dict(targets=[r"re:.*\.(mlp\.fc1|conv_dw)"])),
    "an unfrozen stage": (STAGE, dict(**STAGE, rank=5), STAGE),
    "a training base": (BASE, dict(**BASE, rank=3), BASE),
}


def saved(folder, options_a, options_b):
    paths = folder / "a.safetensors", folder / "b.safetensors"
    for seed, path, options, classes in zip(
        (1, 2), paths, (options_a, options_b), (["ship", "tank"], ["head", "body"])
    ):
        save_adapter(trained(seed, **options), path, classes=classes)
    return paths


@pytest.fixture
def files(tmp_path):
    return saved(tmp_path, {}, {"rank": 4, "alpha": 2.0})


def alone(path, **options) -> Detector:
    model = build(**options)
    load_adapter(model, path)
    return model


@pytest.mark.parametrize("kind", SETS)
@pytest.mark.parametrize("merged", [False, True])
@torch.no_grad()
def test_each_adapter_gives_what_it_gives_alone(kind, merged, tmp_path):
    own, options_a, options_b = SETS[kind]
    a, b = saved(tmp_path, options_a, options_b)
    singles = {"a": alone(a, **options_a), "b": alone(b, **options_b), None: build(**own)}
    model = build(**own)
    before, recipes = state_copy(model), adapter_state(model)
    if merged:
        for net in (model, *singles.values()):
            merge(net)
    bank = AdapterBank(model)
    bank.add("a", a)
    bank.add("b", b)
    assert bank.names == ["a", "b"] and bank.active is None
    for name in ("a", "b", None, "b", "a", None):
        bank.activate(name)
        assert bank.active == name
        assert torch.equal(model(IMAGES), singles[name](IMAGES))
        assert same_state(state_copy(model), state_copy(singles[name]))
        assert all(layer.merged is merged for _, layer in adapter_layers(model))
    unmerge(model)
    assert same_state(before, model.state_dict()) and adapter_state(model) == recipes


@pytest.mark.parametrize("name", ["a", "b"])
def test_what_is_saved_from_the_active_adapter_is_its_file(name, files, tmp_path):
    model = build(dropout=0.3)
    bank = AdapterBank(model)
    for key, path in zip("ab", files):
        bank.add(key, path)
    bank.activate(name)
    save_adapter(model, tmp_path / "again.safetensors", classes=bank.info(name)["classes"])
    again, first = read_adapter(tmp_path / "again.safetensors"), read_adapter(files["ab".index(name)])
    assert again[0] == first[0] and same_state(again[1], first[1])


def test_using_restores_what_was_active_after_errors_too(files):
    model = build()
    bank = AdapterBank(DataParallel(model))
    assert bank.add("a", files[0])["classes"] == ["ship", "tank"]
    bank.add("b", files[1])
    base = model(IMAGES)
    with bank.using("a"):
        with pytest.raises(RuntimeError, match="inside"), bank.using("b"):
            assert bank.active == "b"
            raise RuntimeError("inside")
        assert bank.active == "a" and torch.equal(model(IMAGES), alone(files[0])(IMAGES))
        with bank.using(None):
            assert torch.equal(model(IMAGES), base)
    assert bank.active is None and torch.equal(model(IMAGES), base)


def test_the_model_is_never_rebuilt(files):
    """Whoever holds a module or a parameter holds it still, also at another rank."""
    model = build()
    modules, parameters = list(model.modules()), list(model.parameters())
    bank = AdapterBank(model)
    bank.add("b", files[1])
    bank.activate("b")
    assert all(x is y for x, y in zip(modules, model.modules(), strict=True))
    assert all(x is y for x, y in zip(parameters, model.parameters(), strict=True))


def test_gradients_may_be_switched_off_and_the_model_cast_in_between(tmp_path):
    options = dict(unfreeze=["stages_1"])
    a, _ = saved(tmp_path, options, options)
    model = build(**options)
    bank = AdapterBank(model)
    model.requires_grad_(False)
    bank.add("a", a)
    bank.activate("a")
    expected = alone(a, **options)
    assert same_state(model.state_dict(), expected.state_dict())
    bank.activate(None)
    model.double()
    bank.activate("a")
    torch.testing.assert_close(model(IMAGES.double()), expected.double()(IMAGES.double()))


MISFITS = {
    "base": (dict(base_seed=9), "other base weights"),
    "targets": (dict(targets=["mlp.fc1"]), "other targets"),
    "unfreeze": (dict(unfreeze=["stages_1"]), r"freeze\(unfreeze=\['stages_1'\]\)"),
    "classes": (dict(classes=5), r"cls_score.weight is \(5, 4, 1, 1\) in the file, \(2, 4, 1, 1\) in the model"),
    "classes and rank": (dict(classes=5, rank=7), "cls_score.weight"),
}


@pytest.mark.parametrize("active", [None, "a"])
@pytest.mark.parametrize("misfit", MISFITS)
def test_what_does_not_fit_is_named_with_both_files_and_changes_nothing(misfit, active, files, tmp_path):
    options, message = MISFITS[misfit]
    save_adapter(trained(5, **options), tmp_path / "c.safetensors")
    model = build()
    bank = AdapterBank(model)
    bank.add("a", files[0])
    bank.activate(active)
    before = state_copy(model)
    with pytest.raises(AdapterError, match=message) as error:
        bank.add("c", tmp_path / "c.safetensors")
    assert "c.safetensors does not fit" in str(error.value) and f"'a' of {files[0]}" in str(error.value)
    assert bank.names == ["a"] and bank.active == active and same_state(before, model.state_dict())


def rewrite(path, change):
    info, tensors = read_adapter(path)
    change(info, tensors)
    safetensors.torch.save_file(tensors, path, {"loradet_adapter": json.dumps(info)})


def test_broken_files_are_not_added(files, tmp_path):
    bank = AdapterBank(build())
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors"):
        bank.add("a", tmp_path / "none.safetensors")
    layer = "backbone.bottom_up.stages_0.0.mlp.fc1"
    rewrite(files[0], lambda _, tensors: tensors.update({f"{layer}.lora_a": torch.ones(3, 8)}))
    with pytest.raises(AdapterError, match=r"fc1.lora_a is \(3, 8\) in the file, \(2, 8\) in the model"):
        bank.add("a", files[0])
    assert bank.names == []


@pytest.mark.parametrize(
    ("setting", "wrong", "said"),
    [("alpha", -1.0, r"alpha=-1\.0"), ("rank", "two", "rank is 'two'"), ("dropout", 1.0, r"dropout=1\.0")],
)
def test_settings_that_lora_would_not_take_are_found_when_added(setting, wrong, said, files):
    bank = AdapterBank(build())
    rewrite(files[1], lambda info, _: info["recipes"]["backbone.bottom_up"]["lora"][0].update({setting: wrong}))
    with pytest.raises(AdapterError, match=rf"b\.safetensors.*{said}"):
        bank.add("b", files[1])
    assert bank.names == []


def test_names_are_checked(files):
    bank = AdapterBank(build())
    bank.add("a", files[0])
    for name, message in (("a", f"'a' is {files[0]} already"), ("", "no name"), (None, "None is the base")):
        with pytest.raises(ValueError, match=message):
            bank.add(name, files[1])
    for call in (bank.activate, bank.info):
        with pytest.raises(ValueError, match="no adapter is called 'ships'; there is: a"):
            call("ships")
    assert bank.active is None


def test_only_a_base_can_have_a_bank(files):
    with pytest.raises(ValueError, match="neither freeze nor lora"):
        AdapterBank(Detector())
    with pytest.raises(ValueError, match=r"trained already \(backbone.bottom_up.stages_0.0"):
        AdapterBank(alone(files[0]))


def test_linear_probes_are_switched_too(tmp_path):
    def probe(seed):
        return seeded(seed, Detector, freeze(seeded(0, Backbone))).eval()

    for seed in (1, 2):
        save_adapter(probe(seed), tmp_path / f"{seed}.safetensors")
    model = probe(3)
    bank = AdapterBank(model)
    for seed in (1, 2):
        bank.add(str(seed), tmp_path / f"{seed}.safetensors")
    for seed in (1, 2, 1):
        bank.activate(str(seed))
        assert torch.equal(model(IMAGES), probe(seed)(IMAGES))
    bank.activate(None)
    assert torch.equal(model(IMAGES), probe(3)(IMAGES))
