"""Detectors of transformers as files: what a program finds is what the detector finds."""

import pytest
import torch
from helpers.library_detectors import CLASSES, build, items, needs_transformers

from loradet.errors import UserError
from loradet.export.classes import Classes
from loradet.export.detector import export_detector
from loradet.export.onnx_session import OnnxSession
from loradet.export.resizing import Resizing

pytestmark = needs_transformers
pytest.importorskip("onnx", reason="onnx is not installed: pip install 'loradet[onnx]'")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'loradet[onnx]'")

SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("rt_detr_v2", "deimv2")]


def export(model, file, size=(96, 128), **options):
    names = [f"class {i}" for i in range(CLASSES)]
    classes = Classes(names, list(range(1, CLASSES + 1)))
    return export_detector(model=model, output=file, classes=classes, resizing=Resizing(), input_size=size, **options)


def compare(model, file, size):
    (item,) = items(size)
    with torch.no_grad():
        found = model([item])[0]["instances"]
    boxes, scores, classes, counts = OnnxSession(file, threads=1)(item["image"][None].float().numpy())
    count = int(counts[0])
    assert count == len(found) > 5
    torch.testing.assert_close(torch.from_numpy(boxes[0, :count]), found.pred_boxes.tensor, rtol=0, atol=0.1)
    torch.testing.assert_close(torch.from_numpy(scores[0, :count]), found.scores, rtol=0, atol=1e-4)
    assert classes[0, :count].tolist() == found.pred_classes.tolist()


@pytest.mark.parametrize("family", ["d_fine", *SLOW])
def test_any_size_by_onnxruntime(family, tmp_path):
    model = build(family).eval()
    about = export(model, tmp_path / "model.onnx")
    assert about["exporter"] == "torchscript"
    assert about["input"]["size"] is None and about["max_detections"] == 20
    for size in ((70, 130), (128, 64)):
        compare(model, tmp_path / "model.onnx", size)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["deformable_detr", "rf_detr", "lw_detr"])
def test_one_size_by_onnxruntime(family, tmp_path):
    model = build(family).eval()
    about = export(model, tmp_path / "model.onnx")
    assert about["input"]["size"] == [96, 128]
    assert about["input"]["fixed_because"] == {"batch, height and width": "programs of any size are not right for it"}
    compare(model, tmp_path / "model.onnx", (96, 128))


@pytest.mark.slow
@pytest.mark.parametrize("family", ["d_fine", "deformable_detr", "rf_detr", "lw_detr"])
def test_one_size_by_torch_export(family, tmp_path):
    about = export(build(family).eval(), tmp_path / "model.pt2")
    assert about["input"]["size"] == [96, 128] and about["checked"]["pixels"] < 0.1


@pytest.mark.slow
def test_what_batches_are_padded_to_is_the_size(tmp_path):
    model = build("d_fine", pad_to=(64, 96)).eval()
    assert export(model, tmp_path / "model.onnx", (128, 128))["input"]["size"] == [64, 96]
    compare(model, tmp_path / "model.onnx", (64, 96))


def test_an_opset_that_the_exporter_cannot_write_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"dynamo.* has no opset 13: give --opset 18"):
        export(build("rf_detr").eval(), tmp_path / "model.onnx", opset=13)
    assert not list(tmp_path.iterdir())
