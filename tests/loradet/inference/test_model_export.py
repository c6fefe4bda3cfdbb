"""Exported files: what they hold, and that they find what the model finds."""

import json
import zipfile

import pytest
import torch
from detectron2.modeling.backbone import Backbone
from helpers.random_detector import NAMES, assert_same_detections, detector, tensor
from torch import nn

from loradet.adapters import merge
from loradet.export.resizing import Resizing
from loradet.inference.classes import Classes
from loradet.inference.export import export_detector
from loradet.inference.exported import ExportedDetector
from loradet.inference.metadata import METADATA_FILE, describe, read_metadata

SIZES = [(192, 192), (192, 256), (224, 160), (200, 243), (320, 352)]


@pytest.fixture(scope="module")
def eager():
    return merge(detector())


@pytest.fixture(scope="module")
def loaded(exported):
    return ExportedDetector.load(exported, trusted=True)


def records(*sizes):
    return [
        {"image": tensor(*size, seed=i), "height": 2 * size[0] + i, "width": 2 * size[1]}
        for i, size in enumerate(sizes)
    ]


@pytest.mark.parametrize("size", SIZES)
def test_any_size_finds_what_the_model_finds(loaded, eager, size):
    batch = records(size)
    with torch.no_grad():
        assert_same_detections(loaded(batch)[0]["instances"], eager(batch)[0]["instances"])


@pytest.mark.parametrize("sizes", [SIZES[:2], [(192, 224)] * 5, SIZES])
def test_any_batch_finds_what_the_model_finds(loaded, eager, sizes):
    batch = records(*sizes)
    with torch.no_grad():
        for found, wanted in zip(loaded(batch), eager(batch), strict=True):
            assert_same_detections(found["instances"], wanted["instances"])


def test_metadata_say_what_the_file_is(exported):
    metadata = read_metadata(exported)
    assert metadata["classes"] == NAMES and metadata["category_ids"] == [1, 2, 3]
    assert metadata["input"]["size"] is None and metadata["input"]["batch"] is None
    assert metadata["input"]["multiple_of"] == 32 and metadata["input"]["fixed_because"] == {}
    assert metadata["pixel_mean"] == pytest.approx([123.675, 116.28, 103.53])
    assert metadata["resize"] == {"size": None, "short_edge": 192, "max_size": 256, "interpolation": 2}
    assert metadata["checkpoint"] == "model.pth" and "data" not in metadata
    assert "batch open" in describe(metadata) and "ship, car, tank" in describe(metadata)


def test_the_program_is_plain_torch_without_lora(loaded, exported):
    program = loaded.program
    assert not [name for name in program.state_dict() if "lora_" in name or "_base_weight" in name]
    assert exported.stat().st_size < 3e6
    boxes, scores, classes, counts = program(torch.rand(2, 3, 192, 224) * 255)
    assert boxes.shape == (2, 100, 4) and scores.shape == classes.shape == (2, 100) and counts.shape == (2,)


def test_the_smallest_size_is_taken_and_smaller_images_are_padded(loaded, exported):
    low = read_metadata(exported)["input"]["smallest"]
    loaded.program(torch.zeros(1, 3, *low))
    less = low[0] - 32
    with pytest.raises((AssertionError, RuntimeError)):
        for height, width in ((less, less), (less, low[1]), (low[0], less)):
            loaded.program(torch.zeros(1, 3, height, width))
    found = loaded([{"image": tensor(40, 50)}])[0]["instances"]
    assert found.image_size == (40, 50) and len(found) > 0
    assert (found.pred_boxes.tensor[:, 2:] <= torch.tensor([50.0, 40.0])).all()


class FixedBackbone(Backbone):
    """Maps of one size, whatever goes in."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.shift = nn.Parameter(torch.zeros(64, 96))

    def forward(self, x):
        return self.inner(x + self.shift)

    def output_shape(self):
        return self.inner.output_shape()

    @property
    def size_divisibility(self):
        return self.inner.size_divisibility


@pytest.mark.slow
def test_where_sizes_cannot_be_open_the_file_says_so(tmp_path):
    model = merge(detector())
    model.backbone = FixedBackbone(model.backbone)
    metadata = export_detector(
        model=model.eval(),
        output=tmp_path / "m.pt2",
        classes=Classes(NAMES, [1, 2, 3], synthetic=True),
        resizing=Resizing(size=(64, 96)),
        input_size=(64, 96),
    )
    assert metadata["input"]["size"] == [64, 96] and metadata["input"]["batch"] is None
    assert "torch.export" in metadata["input"]["fixed_because"]["height and width"]
    assert "height and width fixed: torch.export" in describe(metadata)
    assert metadata["data"] == "synthetic" and "synthetic" in describe(metadata)
    batch = records((64, 96), (64, 96))
    with torch.no_grad():
        for found, wanted in zip(ExportedDetector.load(tmp_path / "m.pt2", trusted=True)(batch), model(batch)):
            assert_same_detections(found["instances"], wanted["instances"])


@pytest.mark.slow
def test_a_backbone_that_takes_squares_fixes_the_size(tmp_path):
    model = merge(detector("+model.backbone.square_pad=64"))
    metadata = export_detector(
        model=model,
        output=tmp_path / "m.pt2",
        classes=Classes(NAMES, [1, 2, 3]),
        resizing=Resizing(size=(40, 60)),
        input_size=(40, 60),
    )
    assert metadata["input"]["size"] == [64, 64]
    assert "squares of 64 pixels" in describe(metadata)
    batch = records((40, 60))
    with torch.no_grad():
        found = ExportedDetector.load(tmp_path / "m.pt2", trusted=True)(batch)[0]["instances"]
        assert_same_detections(found, model(batch)[0]["instances"])


def test_an_untrusted_file_is_not_loaded(exported, monkeypatch):
    monkeypatch.setattr(torch.export, "load", lambda *_: pytest.fail("loaded"))
    with pytest.raises(ValueError, match="--trust"):
        ExportedDetector.load(exported, trusted=False)


def test_files_of_other_kinds_are_named(exported, tmp_path):
    other = tmp_path / "other.pt2"
    for content in (b"nothing", exported.read_bytes()[:5000]):
        other.write_bytes(content)
        with pytest.raises(ValueError, match=r"other\.pt2"):
            read_metadata(other)
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr(f"other/extra/{METADATA_FILE}", json.dumps({"format": 99}))
    with pytest.raises(ValueError, match="format 99"):
        read_metadata(other)
    with pytest.raises(FileNotFoundError, match=r"none\.pt2"):
        read_metadata(tmp_path / "none.pt2")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_a_file_runs_on_cuda(exported, loaded):
    batch = records((192, 256))
    found = ExportedDetector.load(exported, trusted=True, device="cuda")(batch)[0]["instances"].to("cpu")
    wanted = loaded(batch)[0]["instances"]
    torch.testing.assert_close(found.scores[:10], wanted.scores[:10], atol=1e-2, rtol=0)
