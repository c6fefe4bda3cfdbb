"""`train.compile`: the same losses and the same keys, in training alone; refused in one line where it cannot be."""

import copy
import pickle

import detectron2.data.transforms as T
import pytest
import torch
from detectron2.config import LazyCall as L
from helpers.paths import TEST_CONFIGS
from omegaconf import OmegaConf
from torch import nn
from torch._dynamo.utils import counters

from loradet.benchmarks.training_step import RandomImages, TrainingStep
from loradet.checkpoint import Checkpointer
from loradet.config import load_config
from loradet.datasets.affine import RandomAffine
from loradet.training import compiling
from loradet.training.compiling import compile_errors, not_compiled, parts_to_compile, why_sizes_vary

RESIZE = L(T.Resize)(shape=[64, 64])
FLIP = L(T.RandomFlip)(horizontal=True)


@pytest.fixture
def traced(monkeypatch, request):
    """Dynamo without the compiler behind it, which takes minutes."""
    compile_in_place = nn.Module.compile

    def compile_without(module, *, mode, dynamic):
        assert mode == "default" and dynamic is False
        compile_in_place(module, backend=request.param, dynamic=dynamic)

    monkeypatch.setattr(nn.Module, "compile", compile_without)
    monkeypatch.setattr(compiling, "_check_compiler", lambda _: None)
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def config(*words, file="tiny", augmentations=(RESIZE, FLIP)):
    words = ["model.num_classes=2", "train.device=cpu", "dataloader.train.total_batch_size=2", *words]
    cfg = load_config(str(TEST_CONFIGS / f"{file}.py"), words)
    if augmentations is not None:
        cfg.dataloader.train.mapper.augmentations = list(augmentations)
    return cfg


def steps(cfg, count=3):
    """A training step's model after some steps, and the losses of each."""
    torch.manual_seed(0)
    step = TrainingStep(cfg, loader=())
    with torch.no_grad():
        for name, parameter in step.trainer.module.named_parameters():
            if name.endswith("gamma"):  # layer scales begin at next to nothing, and would hide the blocks
                parameter.fill_(0.5)
            if name.endswith("lora_b"):
                parameter.normal_(std=0.1)
    images = [batch for batch, _ in zip(RandomImages(64, 64, 4).loader(2), range(count))]
    losses = []
    for batch in images:
        torch.manual_seed(1)  # of dropout
        step.run_on(batch)
        losses.append(step.trainer.storage.latest()["total_loss"][0])
    return step, images, losses


RETINANET = ["model.backbone.bottom_up.dropout=0.0", "train.ema.enabled=True"]
DETR = ["model.backbone.dropout=0.0", "model.transformer.dropout=0.0", "train.accumulate=2"]


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize(
    "traced, file, what, words",
    [
        ("eager", "tiny", "backbone", RETINANET),
        pytest.param("aot_eager", "tiny", "model", RETINANET, marks=pytest.mark.slow),
        pytest.param("aot_eager", "tiny_detr", "model", DETR, marks=pytest.mark.slow),
    ],
    indirect=["traced"],
)
def test_losses_and_keys_are_those_of_plain_training(tmp_path, file, what, words):
    plain, _, expected = steps(config(*words, file=file))
    cfg = config(*words, "train.compile.enabled=True", f"train.compile.what={what}", file=file)
    step, images, losses = steps(cfg)
    assert losses == pytest.approx(expected, rel=1e-5)
    assert counters["stats"]["unique_graphs"] >= (2 if what == "model" else 1) and not counters["graph_break"]
    for (name, ours), theirs in zip(step.trainer.module.named_parameters(), plain.trainer.module.parameters()):
        assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-5), name

    model = step.trainer.module
    assert list(model.state_dict()) == list(plain.trainer.module.state_dict())
    Checkpointer(model, tmp_path).save("model")
    saved = torch.load(tmp_path / "model.pth", weights_only=True)["model"]
    assert list(saved) == list(plain.trainer.module.state_dict())
    graphs = counters["stats"]["unique_graphs"]
    model.eval()
    with not_compiled(cfg), torch.no_grad():
        found = [detections["instances"].scores for detections in model(images[0])]
    assert counters["stats"]["unique_graphs"] == graphs
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with torch.no_grad():
            assert all(map(torch.equal, [d["instances"].scores for d in twin(images[0])], found))
    assert counters["stats"]["unique_graphs"] == graphs, "copies are not compiled"


def test_what_is_compiled():
    model = nn.ModuleDict({name: nn.Linear(1, 1) for name in ("backbone", "head", "loss")})
    assert list(parts_to_compile(model, "backbone")) == ["backbone"]
    assert list(parts_to_compile(model, "model")) == ["backbone", "head"]
    with pytest.raises(ValueError, match=r"Linear has no `backbone` to compile; leave train\.compile\.enabled=False"):
        parts_to_compile(nn.Linear(1, 1), "backbone")


class OwnAugmentation:
    """Of a user."""


@pytest.mark.parametrize(
    "augmentations, reason",
    [
        ([RESIZE, FLIP], None),
        ([FLIP, L(T.ResizeShortestEdge)(short_edge_length=64), RESIZE], None),
        ([T.Resize((64, 64)), L(RandomAffine)(), L(T.RandomBrightness)(intensity_min=0.9, intensity_max=1.1)], None),
        ([RESIZE, L(T.RandomCrop)(crop_type="relative", crop_size=(0.5, 0.5))], "several sizes (RandomCrop)"),
        ([L(T.ResizeShortestEdge)(short_edge_length=64), FLIP], "several sizes (ResizeShortestEdge)"),
        ([RESIZE, OwnAugmentation()], "several sizes (OwnAugmentation)"),
        ([FLIP], "several sizes (nothing resizes them)"),
    ],
)
def test_images_of_several_sizes_are_known_by_their_augmentations(augmentations, reason):
    cfg = OmegaConf.create({"model": {}, "train": {}}, flags={"allow_objects": True})
    assert why_sizes_vary(cfg) == "the training loader does not say how it resizes images"
    cfg.dataloader = {"train": {"mapper": {"augmentations": augmentations}}}
    found = why_sizes_vary(cfg)
    assert found == reason or found == f"training images have {reason}"
    cfg.model.pad_to = [64, 64]
    assert why_sizes_vary(cfg) is None


def test_affine_maps_keep_the_size():
    """As `why_sizes_vary` takes it."""
    import numpy as np

    image = np.zeros((40, 60, 3), dtype=np.uint8)
    assert RandomAffine(prob=1.0, rotate=20.0).get_transform(image).apply_image(image).shape == image.shape


def test_several_sizes_are_refused_before_training():
    with pytest.raises(
        ValueError, match=r"train\.compile: training images have several sizes \(Resize.*pad_to=\[H,W\]"
    ):
        TrainingStep(config("train.compile.enabled=True", augmentations=None), loader=())


def test_a_missing_compiler_is_one_line(monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("No working C++ compiler found.\nAt length why.")

    monkeypatch.setattr(torch, "compile", fails)
    with pytest.raises(ValueError) as caught:
        TrainingStep(config("train.compile.enabled=True"), loader=())
    assert str(caught.value) == (
        "train.compile: torch cannot compile for cpu here (No working C++ compiler found). It needs a C++ compiler "
        "(g++, or what CXX names); install it, or leave train.compile.enabled=False."
    )


def test_what_the_compiler_fails_at_is_one_line():
    def backend(graph, inputs):  # noqa: ARG001
        raise RuntimeError("no kernel\nfor this")

    failing = torch.compile(torch.sin, backend=backend)
    cfg = OmegaConf.create({"train": {"compile": {"enabled": True}}})
    expected = r"^train\.compile: the compiler failed \(.*no kernel\); leave train\.compile\.enabled=False\.$"
    with pytest.raises(ValueError, match=expected), compile_errors(cfg):
        failing(torch.ones(2))


@pytest.mark.slow
def test_what_the_compiler_makes_trains_alike():
    """With the C++ compiler itself: minutes."""
    words = ["model.backbone.bottom_up.dropout=0.0"]
    _, _, expected = steps(config(*words))
    _, _, losses = steps(config(*words, "train.compile.enabled=True"))
    assert losses == pytest.approx(expected, rel=1e-4)
