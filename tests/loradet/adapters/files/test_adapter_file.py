import json

import pytest
import safetensors.torch
import torch
from helpers.adapter_nets import Backbone, Detector, randomize_deltas, same_state, seeded, state_copy
from torch import nn
from torch.nn.parallel import DataParallel

from loradet.adapters import (
    AdapterError,
    describe_adapter,
    freeze,
    load_adapter,
    lora,
    merge,
    read_adapter,
    save_adapter,
    unmerge,
)

IMAGES = torch.linspace(-2, 2, 2 * 3 * 16 * 16).view(2, 3, 16, 16)


def build(
    seed: int = 0,
    *,
    base_seed: int = 0,
    unfreeze=(),
    targets=("mlp.fc1", "conv_dw"),
    rank=2,
    alpha=4.0,
    dropout=0.0,
    classes=2,
    freeze_base=True,
) -> Detector:
    """A detector on a frozen backbone of seed `base_seed`; the head is of seed `seed`."""
    backbone = freeze(seeded(base_seed, Backbone), unfreeze)
    lora(backbone, targets, rank=rank, alpha=alpha, dropout=dropout, freeze_base=freeze_base)
    return seeded(seed, Detector, backbone, classes)


def train_a_little(model: nn.Module) -> nn.Module:
    randomize_deltas(model).train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for _ in range(2):
        optimizer.zero_grad()
        model(IMAGES)["loss"].backward()
        optimizer.step()
    return model.eval()


KINDS = {
    "lora": dict(),
    "lora with dropout and an unfrozen stage": dict(unfreeze=["stages_1"], dropout=0.1),
    "lora with a training base": dict(unfreeze=["stages_1"], freeze_base=False),
    "two convolutions": dict(targets=["stem", "conv_dw"]),
}


@pytest.fixture
def trained() -> Detector:
    return train_a_little(build(1))


@pytest.fixture
def file(trained, tmp_path):
    path = tmp_path / "adapter.safetensors"
    save_adapter(trained, path, classes=["ship", "tank"], class_ids=[3, 7], metadata={"AP": 0.5})
    return path


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("merged", [False, True])
def test_a_saved_adapter_brings_the_trained_model_back(kind, merged, tmp_path):
    model = train_a_little(build(1, **KINDS[kind]))
    expected = model(IMAGES)
    if merged:
        merge(model)
    save_adapter(model, tmp_path / "a.safetensors")
    again = build(2, **KINDS[kind]).eval()
    assert not torch.allclose(again(IMAGES), expected)
    load_adapter(again, tmp_path / "a.safetensors")
    assert torch.equal(again(IMAGES), expected)
    assert (
        again.backbone.bottom_up.adapter_recipe["fingerprint"] == model.backbone.bottom_up.adapter_recipe["fingerprint"]
    )


@pytest.mark.parametrize(
    "adapt", [lambda m: m, freeze, lambda m: freeze(m, ["stages_1"])], ids=["full", "probe", "partial"]
)
def test_other_adaptations_are_saved_whole(adapt, tmp_path):
    model = train_a_little(seeded(1, Detector, adapt(seeded(0, Backbone))))
    expected = model(IMAGES)
    save_adapter(model, tmp_path / "a.safetensors")
    again = seeded(2, Detector, adapt(seeded(0, Backbone))).eval()
    load_adapter(again, tmp_path / "a.safetensors")
    assert torch.equal(again(IMAGES), expected)
    assert same_state(again.state_dict(), model.state_dict())


def test_the_file_holds_what_trained_and_nothing_else(trained, file):
    info, tensors = read_adapter(file)
    trainable = {n for n, p in trained.named_parameters() if p.requires_grad}
    statistics = {f"head.norm.{n}" for n in ("running_mean", "running_var", "num_batches_tracked")}
    assert set(tensors) == trainable | statistics
    assert info["classes"] == ["ship", "tank"] and info["class_ids"] == [3, 7] and info["metadata"] == {"AP": 0.5}
    assert info["pixel_mean"] == [1.0, 2.0, 3.0] and info["pixel_std"] == [1.0, 1.0, 1.0]
    recipe = info["recipes"]["backbone.bottom_up"]
    assert recipe["model_name"] == "tiny" and len(recipe["fingerprint"]) == 64
    assert recipe["lora"][0]["targets"] == ["mlp.fc1", "conv_dw"]
    assert (recipe["lora"][0]["rank"], recipe["lora"][0]["alpha"], recipe["lora"][0]["dropout"]) == (2, 4.0, 0.0)
    assert len(recipe["lora"][0]["matched"]) == 6
    assert info["parameters"]["all"]["trainable"] == sum(trained.get_parameter(n).numel() for n in trainable)
    assert list(file.parent.iterdir()) == [file]


def test_buffers_of_what_is_not_frozen_go_in(tmp_path):
    save_adapter(train_a_little(build(1, unfreeze=["stages_1"])), tmp_path / "a.safetensors")
    statistics = {n for n in read_adapter(tmp_path / "a.safetensors")[1] if n.endswith("running_mean")}
    assert statistics == {"head.norm.running_mean", "backbone.bottom_up.stages_1.0.norm.running_mean"}


def test_a_wrapped_model_is_accepted(trained, file, tmp_path):
    save_adapter(DataParallel(trained), tmp_path / "b.safetensors")
    assert read_adapter(tmp_path / "b.safetensors")[1].keys() == read_adapter(file)[1].keys()
    again = build(2).eval()
    load_adapter(DataParallel(again), file)
    assert torch.equal(again(IMAGES), trained(IMAGES))


def test_a_random_head_and_a_trained_stage_do_not_make_another_base(tmp_path):
    """A detector adapted as a whole: only what the file does not hold must be the same."""

    def adapted(head_seed):
        model = seeded(head_seed, Detector, seeded(0, Backbone))
        model.backbone.lateral.load_state_dict(seeded(5, nn.Conv2d, 8, 4, 1).state_dict())
        return lora(freeze(model, ["head"]), ["fc1"], rank=2, alpha=4.0)

    model = train_a_little(adapted(1))
    save_adapter(model, tmp_path / "a.safetensors")
    again = adapted(2).eval()
    load_adapter(again, tmp_path / "a.safetensors")
    assert torch.equal(again(IMAGES), model(IMAGES))


MISFITS = {
    "base": (dict(base_seed=9), r"other base weights: the adapter was trained on tiny \(fingerprint \w{12}\)"),
    "rank": (dict(rank=4), "rank is 2 in the file, 4 in the model; build it with rank=2"),
    "alpha": (dict(alpha=8.0), "alpha is 4 in the file, 8 in the model; build it with alpha=4"),
    "targets": (dict(targets=["mlp.fc1"]), r"other targets: .*targets mlp.fc1, conv_dw.*stages_0.0.conv_dw"),
    "unfreeze": (dict(unfreeze=["stages_1"]), r"freeze\(unfreeze=\[\]\), the model's freeze\(unfreeze=\['stages_1'\]"),
    "classes": (dict(classes=5), r"cls_score.weight is \(2, 4, 1, 1\) in the file, \(5, .*2 classes \(ship, tank\)"),
}  # fmt: skip


@pytest.mark.parametrize("misfit", MISFITS)
def test_what_does_not_fit_is_named_and_nothing_is_loaded(misfit, file):
    options, message = MISFITS[misfit]
    model = build(2, **options)
    before = state_copy(model)
    with pytest.raises(AdapterError, match=message) as error:
        load_adapter(model, file)
    assert str(file) in str(error.value)
    assert same_state(before, model.state_dict())


def test_everything_that_differs_is_in_one_error(file):
    with pytest.raises(AdapterError) as error:
        load_adapter(build(2, rank=4, alpha=1.0, classes=3), file)
    assert all(word in str(error.value) for word in ("rank is 2", "alpha is 4", "cls_score.weight"))


def test_a_base_that_trained_in_the_file_alone_is_an_error(tmp_path):
    save_adapter(build(1, unfreeze=["stages_1"], freeze_base=False), tmp_path / "a.safetensors")
    with pytest.raises(
        AdapterError, match=r"has 4 tensors that do not train in the model: .*stages_1.0.conv_dw.weight"
    ):
        load_adapter(build(2, unfreeze=["stages_1"]), tmp_path / "a.safetensors")


def test_other_dropout_or_other_words_for_the_same_layers_fit(file, trained):
    again = build(2, dropout=0.3, targets=[r"re:.*\.(mlp\.fc1|conv_dw)"]).eval()
    load_adapter(again, file)
    assert torch.equal(again(IMAGES), trained(IMAGES))


def test_a_model_without_adaptation_is_told_what_is_missing(file):
    with pytest.raises(AdapterError, match=r"bottom_up is freeze\(unfreeze=\[\]\) and lora\(targets=\['mlp.fc1'"):
        load_adapter(Detector(), file)
    with pytest.raises(AdapterError, match=r"the file has .* tensors that do not train in the model"):
        load_adapter(freeze(Backbone()), file)


@pytest.mark.parametrize("name", ["pixel_mean", "pixel_std"])
def test_other_pixel_statistics_are_an_error(name, file):
    model = build(2)
    getattr(model, name).mul_(2)
    with pytest.raises(AdapterError, match=f"{name} is .* in the file"):
        load_adapter(model, file)


def rewrite(file, change):
    """The file with its header and tensors changed by `change(info, tensors)`."""
    info, tensors = read_adapter(file)
    change(info, tensors)
    safetensors.torch.save_file(tensors, file, {"loradet_adapter": json.dumps(info)})


def test_missing_and_unexpected_tensors_are_named(file):
    name = "backbone.bottom_up.stages_0.1.mlp.fc1.lora_b"
    rewrite(file, lambda _, t: t.pop(name))
    with pytest.raises(AdapterError, match=f"lacks 1 tensors that train in the model: {name}"):
        load_adapter(build(2), file)
    rewrite(file, lambda _, t: t.update(extra=torch.ones(1)))
    with pytest.raises(AdapterError, match="has 1 tensors that do not train in the model: extra"):
        load_adapter(build(2), file)


def test_broken_files(file, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors"):
        load_adapter(build(), tmp_path / "none.safetensors")
    rewrite(file, lambda info, _: info.update(format=99))
    with pytest.raises(AdapterError, match="format 99"):
        read_adapter(file)
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(AdapterError, match="not a readable safetensors file"):
        load_adapter(build(), file)
    file.write_bytes(b"")
    with pytest.raises(AdapterError, match="not a readable safetensors file"):
        load_adapter(build(), file)
    safetensors.torch.save_file({"a": torch.ones(2)}, file)
    with pytest.raises(AdapterError, match="no adapter file"):
        load_adapter(build(), file)


def test_saving_refuses_nonsense_and_keeps_the_old_file(trained, file):
    before = file.read_bytes()
    with pytest.raises(ValueError, match="2 classes, but 1 class_ids"):
        save_adapter(trained, file, classes=["a", "b"], class_ids=[1])
    with pytest.raises(ValueError, match="plain JSON"):
        save_adapter(trained, file, metadata={"x": object()})
    with pytest.raises(ValueError, match="nothing in this model trains"):
        save_adapter(freeze(nn.Linear(2, 2)), file)
    assert file.read_bytes() == before


def test_loading_onto_a_merged_model_is_an_error(file, trained):
    model = merge(build(2).eval())
    with pytest.raises(AdapterError, match="unmerge"):
        load_adapter(model, file)
    load_adapter(unmerge(model), file)
    assert torch.equal(model(IMAGES), trained(IMAGES))


def test_tied_and_channels_last_tensors_are_saved(tmp_path):
    def tied():
        net = nn.Sequential(nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 3)).to(memory_format=torch.channels_last)
        net[1].weight = net[0].weight
        return net

    model, again = tied(), tied()
    save_adapter(model, tmp_path / "a.safetensors")
    load_adapter(again, tmp_path / "a.safetensors")
    assert same_state(again.state_dict(), model.state_dict()) and again[1].weight is again[0].weight


def test_description(file):
    text = describe_adapter(file)
    for part in ("tiny", "ship (3), tank (7)", "mlp.fc1, conv_dw (6 layers), rank 2, alpha 4", "MB", "metadata AP"):
        assert part in text


def test_the_same_content_gives_the_same_bytes(tmp_path):
    for number in range(12):
        metadata = {"b": 1, "a": 2} if number % 2 else {"a": 2, "b": 1}
        save_adapter(train_a_little(build()), tmp_path / f"{number}.safetensors", classes=["é"], metadata=metadata)
    contents = {file.read_bytes() for file in tmp_path.iterdir()}
    assert len(contents) == 1
    (content,) = contents
    assert int.from_bytes(content[:8], "little") % 8 == 0
    info, tensors = read_adapter(tmp_path / "0.safetensors")
    assert info["classes"] == ["é"]
    assert same_state(tensors, safetensors.torch.load(content))
