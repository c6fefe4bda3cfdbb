"""Detectors with kept features lose, learn and detect as those that compute them."""

import copy
import pickle

import pytest
import torch
from detectron2.modeling.meta_arch.retinanet import RetinaNet
from detectron2.utils.events import EventStorage
from helpers.small_models import BACKBONES, DETECTORS, REGIMES, build, item

from loradet.adapters import freeze, lora
from loradet.errors import UserError
from loradet.feature_cache.frozen_part import check_frozen_part, find_frozen_part, fingerprint, structure
from loradet.feature_cache.probe import probe
from loradet.feature_cache.replay import MARK, Features, Mark, Replay
from loradet.feature_cache.stores import Key, MemoryStore
from loradet.feature_cache.views import View

IMAGES = [
    item(64, 64, [[4, 6, 30, 40], [34, 20, 62, 60]], [0, 2], seed=1),
    item(64, 64, [[8, 8, 24, 20]], [1], seed=2),
    item(64, 64, [[20, 10, 60, 46]], [2], seed=3),
]
VIEW = View("as it is", 0, (64, 64))
LAST = {"ConvNeXt": "stages_3.blocks.0.mlp.fc1", "ResNet": "layer4.0.conv2", "ViT": "blocks.1.mlp.fc1"}


class Cached:
    """A detector with hooks and an empty store for three images."""

    def __init__(self, model, autocast=None, dtype=None):
        self.model = model.train()
        self.part = find_frozen_part(model)
        check_frozen_part(model, self.part)
        found = probe(model, self.part, (64, 64), autocast, dtype)
        self.layout, self.store = found.layout, MemoryStore(["0", "1", "2"], 1, found.layout)
        self.replay = Replay(model, self.part)
        self.replay.features["train"] = Features(self.store, found.layout, found.padded, autocast)

    def batch(self, *numbers, kept=()):
        """Samples as the mapper marks them."""
        found = []
        for number in numbers:
            sample = {**IMAGES[number], MARK: Mark("train", Key(str(number), VIEW), None, number in kept)}
            if number in kept:
                del sample["image"]
            found.append(sample)
        return found

    def has(self):
        return [self.store.find(Key(str(number), VIEW))[0] for number in range(3)]


def step(model, batch):
    """Losses and gradients."""
    torch.manual_seed(0)
    model.zero_grad()
    if isinstance(model, RetinaNet):
        model.loss_normalizer = 10.0  # a running mean
    with EventStorage():
        losses = model(batch)
    sum(losses.values()).backward()
    return torch.stack(list(losses.values())).detach(), {
        name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None
    }


def assert_same(found, expected):
    torch.testing.assert_close(found[0], expected[0], rtol=1e-6, atol=1e-7)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max()))


def late_lora(net, _):
    """LoRA in the last stage or block alone."""
    last = next(name for name, module in net.net.named_modules() if any(name == end for end in LAST.values()))
    return lora(freeze(net), targets=[last], rank=2, alpha=4.0)


QUICK = {
    *(("ConvNeXt", "RetinaNet", "probe"), ("ViT", "DETR", "probe"), ("ResNet", "DETR", "probe")),
    *(("ConvNeXt", "RetinaNet", "partial"), ("ResNet", "RetinaNet", "late LoRA"), ("ViT", "DETR", "late LoRA")),
}


def cases():
    yield from (("ConvNeXt", detector, "probe") for detector in DETECTORS)
    yield from ((backbone, "RetinaNet", "probe") for backbone in BACKBONES if backbone != "ConvNeXt")
    yield from ((backbone, "DETR", "probe") for backbone in ("ResNet", "ViT"))
    for regime in ("partial", "late LoRA"):
        yield from ((backbone, "RetinaNet" if backbone != "ViT" else "DETR", regime) for backbone in LAST)


@pytest.mark.parametrize(
    ("backbone", "detector", "regime"),
    [pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow) for case in cases()],
)
def test_losses_gradients_and_detections_are_the_same(backbone, detector, regime, monkeypatch):
    monkeypatch.setitem(REGIMES, "late LoRA", late_lora)
    cached = Cached(build(BACKBONES[backbone], detector, regime))
    assert cached.part.is_whole == (regime == "probe")
    model, expected = cached.model, step(cached.model, IMAGES)
    assert_same(step(model, [*cached.batch(0, 1), IMAGES[2]]), expected)  # an empty cache
    assert cached.has() == [True, True, False]
    assert_same(step(model, cached.batch(0, 1, 2, kept=[0, 1])), expected)  # half of it
    assert cached.has() == [True, True, True]
    assert_same(step(model, cached.batch(0, 1, 2, kept=[0, 1, 2])), expected)
    swapped = step(model, [IMAGES[i] for i in (0, 2, 1)])
    assert_same(step(model, cached.batch(0, 2, 1, kept=[0, 1])), swapped)  # an image between two that are kept
    model.eval()
    with torch.inference_mode():
        plain, kept = model(IMAGES), model(cached.batch(0, 1, 2, kept=[0, 1, 2]))
    for one, other in zip(plain, kept):
        torch.testing.assert_close(one["instances"].pred_boxes.tensor, other["instances"].pred_boxes.tensor)
        torch.testing.assert_close(one["instances"].scores, other["instances"].scores)
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.fixture
def cached():
    return Cached(build(BACKBONES["ConvNeXt"], "RetinaNet", "probe"))


def test_the_frozen_part_does_not_run_for_kept_images(cached):
    step(cached.model, cached.batch(0, 1, 2))
    ran = []
    for module in cached.model.backbone.bottom_up.net.modules():
        module.register_forward_hook(lambda *_: ran.append(1))
    step(cached.model, cached.batch(0, 1, 2, kept=[0, 1, 2]))
    assert not ran
    step(cached.model, IMAGES)
    assert ran


def test_features_from_an_evaluation_can_be_trained_on(cached):
    expected = step(cached.model, IMAGES)
    with torch.inference_mode():
        cached.model.eval()(cached.batch(0, 1, 2))
    assert_same(step(cached.model.train(), cached.batch(0, 1, 2, kept=[0, 1, 2])), expected)


def test_a_call_that_fails_leaves_the_model_as_it_was(cached):
    step(cached.model, cached.batch(0))
    with pytest.raises((ValueError, AssertionError), match="nstance"):  # as the embedded and the installed one say it
        cached.model([{key: value for key, value in cached.batch(0, kept=[0])[0].items() if key != "instances"}])
    assert not any("forward" in vars(module) for module in cached.model.modules())
    assert_same(step(cached.model, cached.batch(0, kept=[0])), step(cached.model, IMAGES[:1]))


def test_copies_and_pickles_compute_by_themselves(cached):
    names = list(cached.model.state_dict())
    expected = step(cached.model, cached.batch(0, 1, 2))
    assert_same(step(copy.deepcopy(cached.model), cached.batch(0, 1, 2)), expected)
    with pytest.raises(KeyError, match="image"):
        copy.deepcopy(cached.model)(cached.batch(0, kept=[0]))
    assert list(cached.model.state_dict()) == names
    cached.replay.remove()
    assert_same(step(pickle.loads(pickle.dumps(cached.model)), IMAGES), expected)


def outside(cached, way):
    """The same detector, whose backbone lies in a module of its own."""
    cached.model.backbone.bottom_up = Outer(cached.model.backbone.bottom_up, way)
    cached.replay.remove()
    return cached.model


def test_a_detector_that_runs_the_backbone_twice_is_refused(cached):
    again = Cached(outside(cached, lambda backbone, x: (backbone(x), backbone(x.flip(-1)))[0]))
    assert again.part.backbone == "backbone.bottom_up.inner"
    with pytest.raises(UserError, match=r"runs backbone\.bottom_up\.inner .* more than once a call"):
        step(again.model, again.batch(0))
    assert again.has() == [False] * 3


def test_a_detector_that_changes_pixels_is_refused(cached):
    with pytest.raises(UserError, match=r"runs backbone\.bottom_up\.inner .* on other pixels than"):
        Cached(outside(cached, lambda backbone, x: backbone(x + 0.1)))
    cached.model.backbone.bottom_up.way = lambda backbone, x: backbone(x)
    again = Cached(cached.model)
    cached.model.backbone.bottom_up.way = lambda backbone, x: backbone(x + 0.1)  # from its first batch on
    with pytest.raises(UserError, match=r"runs backbone\.bottom_up\.inner .* on other pixels than"):
        step(again.model, again.batch(0))
    assert again.has() == [False] * 3


def test_a_neck_that_changes_maps_in_place_changes_no_kept_ones(cached):
    again = Cached(outside(cached, lambda net, x: {name: found.mul_(2.0) for name, found in net(x).items()}))
    expected = step(again.model, IMAGES)
    assert_same(step(again.model, again.batch(0, 1)[:1]), step(again.model, IMAGES[:1]))
    assert_same(step(again.model, again.batch(0, 1, 2, kept=[0])), expected)
    assert_same(step(again.model, again.batch(0, 1, 2, kept=[0, 1, 2])), expected)


def test_a_stage_that_changes_a_kept_map_in_place_is_refused():
    model = build(BACKBONES["ConvNeXt"], "RetinaNet", "partial")
    stage = model.backbone.bottom_up.net.stages_2
    compute = stage.forward
    stage.forward = lambda x: compute(x.mul_(2.0))
    with pytest.raises(UserError, match=r"net\.stages_1 is changed in place by what is frozen behind it"):
        Cached(model)


class Outer(torch.nn.Module):
    """Runs a backbone in a way of its own."""

    def __init__(self, inner, way):
        super().__init__()
        self.inner, self.way = inner, way

    def forward(self, x):
        return self.way(self.inner, x)


def test_another_padding_and_another_precision_are_refused(cached):
    step(cached.model, cached.batch(0))
    small = {**item(32, 64, [[4, 4, 20, 20]], [0], seed=4), MARK: Mark("train", Key("1", VIEW), None, is_kept=False)}
    with pytest.raises(UserError, match="padded to 32x64 pixels, and features are kept of 64x64"):
        step(cached.model, [small])
    with pytest.raises(UserError, match="kept as computed under no autocast"), torch.autocast("cpu", torch.bfloat16):
        step(cached.model, cached.batch(0, kept=[0]))


def test_autocast_gives_the_same_types_and_numbers():
    model = build(BACKBONES["ViT"], "DETR", "probe")
    cached = Cached(model, autocast=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        expected = step(model, IMAGES)
        step(model, cached.batch(0, 1, 2))
        assert_same(step(model, cached.batch(0, 1, 2, kept=[0, 1, 2])), expected)


def test_half_precision_halves_an_entry_and_rounds(cached):
    expected = step(cached.model, IMAGES)[0]
    cached.replay.remove()
    half = Cached(cached.model, dtype="bf16")
    step(half.model, half.batch(0, 1, 2))
    assert 2 * half.layout.nbytes == cached.layout.nbytes
    found = step(half.model, half.batch(0, 1, 2, kept=[0, 1, 2]))[0]
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=1e-3)
    assert not found.equal(expected)


def test_what_overflows_in_half_precision_is_not_kept(cached):
    cached.replay.remove()
    half = Cached(cached.model, dtype="fp16")
    found = {one.name: torch.full((1, *one.shape), 1e9) for one in half.layout.outputs}
    assert half.layout.tensors({name: tensor[0] for name, tensor in found.items()}) is None
    assert cached.layout.tensors({name: tensor[0] for name, tensor in found.items()}) is not None


@pytest.mark.parametrize("regime", ["full", "LoRA"])
def test_without_anything_frozen_in_front_there_is_nothing_to_keep(regime):
    model = build(BACKBONES["ConvNeXt"], "RetinaNet", regime)
    with pytest.raises(UserError, match=r"backbone\.bottom_up\.net\.\S+ trains, and nothing of backbone\.bottom_up"):
        find_frozen_part(model)


def test_batch_norm_and_dropout_in_training_mode_are_named():
    model = build(BACKBONES["ResNet"], "RetinaNet", "full").train()
    for parameter in model.backbone.bottom_up.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(UserError, match=r"backbone\.bottom_up \(TimmBackbone\) of the frozen part is in training mode"):
        check_frozen_part(model, find_frozen_part(model))
    model = build(BACKBONES["ResNet"], "RetinaNet", "full")
    freeze(model.backbone.bottom_up, statistics=True)
    with pytest.raises(UserError, match=r"net\.bn1 \(BatchNorm2d\) of the frozen part is in training mode"):
        check_frozen_part(model.train(), find_frozen_part(model))


def test_a_compiled_model_is_refused():
    model = build(BACKBONES["ConvNeXt"], "RetinaNet", "probe").train()
    model.backbone.bottom_up._compiled_call_impl = model.backbone.bottom_up.forward  # what torch's `compile()` sets
    with pytest.raises(UserError, match=r"backbone\.bottom_up is compiled"):
        check_frozen_part(model, find_frozen_part(model))


class Noisy(torch.nn.Module):
    """Adds noise whatever the mode."""

    def forward(self, x):
        return x + torch.randn_like(x)


class Mixing(torch.nn.Module):
    """Takes the mean of a batch off."""

    def forward(self, x):
        return x - x.mean(0, keepdim=True)


@pytest.mark.parametrize("kind", [Noisy, Mixing])
def test_a_frozen_part_of_changing_numbers_is_refused(kind):
    model = build(BACKBONES["ConvNeXt"], "RetinaNet", "full")
    model.backbone.bottom_up.net.stem_1 = torch.nn.Sequential(model.backbone.bottom_up.net.stem_1, kind())
    freeze(model.backbone.bottom_up)
    with pytest.raises(UserError, match="gives other numbers for the same image"):
        probe(model.train(), find_frozen_part(model), (64, 64), None, None)


def test_the_probe_leaves_what_trains_and_the_generators_alone():
    model = build(BACKBONES["ResNet"], "RetinaNet", "partial").train()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    probe(model, find_frozen_part(model), (64, 64), None, None)
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    assert torch.get_rng_state().equal(state)


def test_weights_and_structure_tell_backbones_apart():
    def identity(model):
        part = find_frozen_part(model)
        return fingerprint(model, part), structure(model, part)

    first = build(BACKBONES["ConvNeXt"], "RetinaNet", "probe", seed=0)
    other_head = build(BACKBONES["ConvNeXt"], "RetinaNet", "probe", seed=1)
    assert identity(first) == identity(other_head) == identity(first.eval())
    with torch.no_grad():
        first.backbone.bottom_up.net.stem_0.bias[0] += 1e-6
    assert identity(first)[0] != identity(other_head)[0]
    other_head.backbone.bottom_up.net.stages_1.blocks[0].norm.eps = 1e-5
    assert identity(other_head)[1] != identity(first)[1]
