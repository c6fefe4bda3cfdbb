"""Exported detectors of transformers on images of other sizes than the file's: what eager finds, or one line."""

import numpy as np
import pytest
import torch
from helpers.library_detectors import CLASSES, build, items, needs_transformers

from loradet.errors import UserError
from loradet.export.batching import check_fits, groups
from loradet.export.classes import Classes
from loradet.export.detector import export_detector
from loradet.export.exportable.registry import exportable
from loradet.export.metadata import describe
from loradet.export.padding import Padding
from loradet.export.resizing import Resizing
from loradet.inference.exported import ExportedDetector
from loradet.inference.onnx_detector import OnnxDetector, Sample

pytestmark = needs_transformers
pytest.importorskip("onnx", reason="onnx is not installed: pip install 'loradet[onnx]'")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'loradet[onnx]'")


def export(model, file, size=(96, 128), **options):
    names = [f"class {i}" for i in range(CLASSES)]
    classes = Classes(names, list(range(1, CLASSES + 1)))
    return export_detector(model=model, output=file, classes=classes, resizing=Resizing(), input_size=size, **options)


def sample(item):
    image = item["image"].numpy().transpose(1, 2, 0)
    return Sample(np.ascontiguousarray(image), *image.shape[:2])


def assert_same(model, file, batch):
    """A file finds in each image of a batch what the model finds, by torch's interface and by NumPy's."""
    with torch.no_grad():
        expected = [result["instances"] for result in model(batch)]
    ours = [result["instances"] for result in ExportedDetector.load(file, trusted=False)(batch)]
    theirs = OnnxDetector(file, threads=1)([sample(item) for item in batch])
    assert sum(map(len, expected)) > 5
    for want, one, other in zip(expected, ours, theirs, strict=True):
        assert len(want) == len(one) == len(other) > 0
        for boxes, scores in ((one.pred_boxes.tensor, one.scores), map(torch.from_numpy, (other.boxes, other.scores))):
            torch.testing.assert_close(boxes, want.pred_boxes.tensor, rtol=0, atol=0.1)
            torch.testing.assert_close(scores, want.scores, rtol=0, atol=1e-4)


def test_a_batch_of_several_sizes_and_a_strip(tmp_path):
    model = build("d_fine", options={"num_queries": 84}).eval()
    file = tmp_path / "model.onnx"
    about = export(model, file)
    assert min(about["input"]["smallest"]) > 32
    assert_same(model, file, items((64, 96), (128, 70), (60, 90)))
    assert_same(model, file, items((32, 512)))  # of enough positions, though lower than the smallest square
    assert "one size at a time" in describe(about)
    with pytest.raises(UserError, match=r"^one\.png is 32x32 .* as many pixels as 48x48"):
        ExportedDetector.load(file, trusted=False)([items((16, 32))[0] | {"file_name": "one.png"}])


@pytest.mark.slow
def test_squares_where_the_backbone_takes_no_other(tmp_path):
    model = build("rf_detr", own=True).eval()
    file = tmp_path / "model.onnx"
    about = export(model, file)
    assert about["input"]["size"] == [128, 128]
    assert_same(model, file, items((96, 128), (128, 70), (120, 128)))
    line = r"at most 128x128 pixels \(width x height\), the longer side more than 112"
    assert about["input"]["padding"]["is_square"]
    with pytest.raises(UserError, match=rf"^96x112.png is 112x96 .*{line}.*T\.Resize.*--input-size") as refused:
        ExportedDetector.load(file, trusted=False)(items((96, 128), (96, 112)))
    assert "--dynamic" not in str(refused.value)
    (small,) = items((64, 64))
    with pytest.raises(UserError, match=line):
        OnnxDetector(file, threads=1)([sample(small)])


@pytest.mark.slow
@pytest.mark.parametrize(("family", "own"), [("lw_detr", False), ("deformable_detr", False), ("lw_detr", True)])
def test_one_size_refuses_what_it_would_pad_more_than_eager(family, own, tmp_path):
    model = build(family, own=own).eval()
    file = tmp_path / "model.onnx"
    size = tuple(export(model, file, (128, 192))["input"]["size"])
    assert_same(model, file, items(size, (size[0] - 3, size[1] - 5)))
    for height, width in ((96, 192), (64, 96)):
        with pytest.raises(UserError, match=f"is {width}x{height} .* sees padding"):
            ExportedDetector.load(file, trusted=False)(items((height, width)))


@pytest.mark.slow
def test_what_batches_are_padded_to_takes_all_that_is_smaller(tmp_path):
    model = build("d_fine", pad_to=(64, 96)).eval()
    file = tmp_path / "model.onnx"
    export(model, file)
    assert_same(model, file, items((64, 96), (40, 90), (33, 33)))
    with pytest.raises(UserError, match=r"at most 96x64 pixels"):  # eager turns the canvas
        ExportedDetector.load(file, trusted=False)(items((96, 64)))


@pytest.mark.parametrize("family", ["d_fine", "rf_detr"])
@pytest.mark.parametrize("own", [False, True])
def test_padding_is_the_models_own(family, own):
    model = build(family, own=own).eval()
    form = exportable(model, "RGB")
    padding = form.padding
    assert Padding.of_metadata({"padding": padding.to_dict()}) == padding
    sides = (1, 31, 32, 33, 64, 97)
    for size in ((height, width) for height in sides for width in sides):
        assert padding.size_of(*size) == form.padded(size) == model.preprocess_image(items(size)).tensor.shape[-2:]


@pytest.mark.parametrize(
    ("padding", "words"),
    [
        (Padding(32), "97 to 128 pixels wide and 65 to 96 high"),
        (Padding(1), "128 pixels wide and 96 high"),
        (Padding(32, at_least=(96, 128)), r"at most 128x96 pixels \(width x height\)"),
        (Padding(32, at_least=(96, 96)), "97 to 128 pixels wide and 1 to 96 high"),
    ],
)
def test_what_a_program_of_one_size_takes_is_what_eager_pads_to_it(padding, words):
    about = {"size": [96, 128], "padding": padding.to_dict()}
    sides = (1, 31, 64, 65, 95, 96, 97, 98, 127, 128, 129)
    for size in ((height, width) for height in sides for width in sides):
        if padding.size_of(*size) == (96, 128):
            check_fits(about, size, "a.png")
            continue
        with pytest.raises(UserError, match=f"^a.png is {size[1]}x{size[0]} .*takes images of {words} alone"):
            check_fits(about, size, "a.png")


def test_files_of_before_take_all_that_is_smaller():
    check_fits({"size": [96, 128]}, (1, 1), "a.png")
    assert groups({"size": None, "batch": None}, [(1, 1), (99, 9)]) == [[0, 1]]
