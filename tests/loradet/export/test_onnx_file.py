"""The detector that ships with the project as an ONNX file: what it finds, says and refuses."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from loradet.config.build import build
from loradet.config.splits import evaluation_mapper
from loradet.errors import UserError
from loradet.export.classes import Classes
from loradet.export.detector import export_detector
from loradet.export.metadata import describe, read_metadata
from loradet.export.resizing import Resizing
from loradet.inference import ExportedDetector
from loradet.inference.command import predict_checkpoint, predict_exported
from loradet.inference.onnx_detector import OnnxDetector, Sample
from loradet.inference.onnx_predict import predict_onnx

from .conftest import CLASSES, quickstart


def find(model, image):
    """Boxes, scores and classes that a model of Detectron2's interface finds on (H, W, 3)."""
    tensor = torch.from_numpy(image.transpose(2, 0, 1).copy())
    with torch.no_grad():
        found = model([{"image": tensor, "height": image.shape[0], "width": image.shape[1]}])[0]["instances"]
    return found.pred_boxes.tensor.numpy(), found.scores.numpy(), found.pred_classes.numpy()


def assert_same(ours, theirs):
    """The same boxes after NMS: as many, within 0.1 pixel and 1e-4 of the score, of the same class."""
    boxes, scores, classes = ours
    assert len(scores) == len(theirs[1])
    for box, score, number in zip(boxes, scores, classes):
        near = (np.abs(theirs[0] - box).max(1) < 0.1) & (np.abs(theirs[1] - score) < 1e-4) & (theirs[2] == number)
        assert near.any(), (box, score, number)


def test_twenty_sizes_of_photographs(shipped, photographs):
    model, folder = shipped
    detector = OnnxDetector(folder / "model.onnx", threads=1)
    count = 0
    for image in photographs:
        (found,) = detector([Sample(image, *image.shape[:2])])
        expected = find(model, image)
        assert_same((found.boxes, found.scores, found.classes), expected)
        count += len(expected[1])
    assert count > 400


def test_openvino_finds_the_same_in_the_same_file(shipped, photographs):
    openvino = pytest.importorskip("openvino", reason="openvino is not installed: pip install 'loradet[openvino]'")
    model, folder = shipped
    compiled = openvino.compile_model(str(folder / "model.onnx"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for image in photographs:
        batch = image.transpose(2, 0, 1)[None].astype(np.float32)
        boxes, scores, classes, counts = (compiled([batch])[i] for i in range(4))
        taken = int(counts[0])
        assert_same((boxes[0, :taken], scores[0, :taken], classes[0, :taken]), find(model, image))


def test_a_batch_finds_what_single_images_do(shipped, photographs):
    detector = OnnxDetector(shipped[1] / "model.onnx", threads=1)
    images = [image[:60, :40] for image in photographs if min(image.shape[:2]) >= 60][:3]
    samples = [Sample(image, *image.shape[:2]) for image in images]
    for one, sample in zip(detector(samples), samples):
        (alone,) = detector([sample])
        np.testing.assert_allclose(one.boxes, alone.boxes, atol=1e-3)
        assert len(one) == len(alone)


def test_the_file_says_what_it_is(shipped):
    file = shipped[1] / "model.onnx"
    metadata = read_metadata(file)
    assert metadata["classes"] == CLASSES and metadata["category_ids"] == [1, 2, 3, 4, 5, 6]
    assert metadata["pixel_mean"] == pytest.approx([123.675, 116.28, 103.53]) and metadata["intensity"] == "auto"
    assert metadata["resize"]["short_edge"] == 192 and metadata["score_threshold"] == 0.05
    assert metadata["input"]["size"] is None and metadata["input"]["batch"] is None
    assert metadata["input"]["multiple_of"] == 1 and metadata["exporter"] == "torchscript"
    (recipe,) = metadata["adapter"].values()
    assert recipe["lora"][0]["rank"] == 16 and len(recipe["fingerprint"]) == 64
    assert metadata["checked"]["detections"] > 50 and metadata["checked"]["pixels"] < 0.1
    assert metadata["versions"]["torch"] == torch.__version__
    assert "any from" in describe(metadata) and "as torch finds them" in describe(metadata)
    import onnx

    assert {one.key for one in onnx.load(file, load_external_data=False).metadata_props} == {"loradet.json"}


def test_images_are_read_as_the_mapper_reads_them(shipped, photographs, tmp_path):
    detector, mapper = OnnxDetector(shipped[1] / "model.onnx"), build(evaluation_mapper(quickstart()), "The mapper")
    for number, image in enumerate(photographs):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
        ours = detector.read(tmp_path / f"{number}.png").image.astype(int)
        theirs = mapper({"file_name": str(tmp_path / f"{number}.png"), "image_id": 1})["image"].numpy()
        assert ours.shape[:2] == theirs.shape[1:]
        assert np.abs(ours - theirs.transpose(1, 2, 0)).max() <= 1


NO_TORCH = """
import sys
from loradet.cli import main
main(["predict", *sys.argv[1:]])
heavy = {"torch", "torchvision", "detectron2", "timm", "onnx"} & set(sys.modules)
assert not heavy, heavy
"""


def test_predicting_needs_no_torch(shipped, photographs, tmp_path):
    (tmp_path / "images").mkdir()
    for number, image in enumerate(photographs[:4]):
        # Already of the size that they are resized to: then the pixels are the same to the last level.
        Image.fromarray(image).resize((192, 192 + 9 * number)).save(tmp_path / "images" / f"{number}.png")
    (tmp_path / "images" / "broken.png").write_bytes(b"no image")
    words = ["--onnx", shipped[1] / "model.onnx", "--output", tmp_path / "a", tmp_path / "images", "--threshold", "0.1"]
    done = subprocess.run([sys.executable, "-c", NO_TORCH, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 1 and "broken.png" in done.stderr and "AssertionError" not in done.stderr
    assert done.stderr.splitlines()[-1] == "error: 1 image could not be used; the warnings above say why"
    inputs = [str(tmp_path / "images")]
    weights = str(shipped[1] / "model.pth")
    predict_checkpoint(quickstart(), weights, inputs, str(tmp_path / "b"), score_threshold=0.1)
    ours, theirs = (json.loads((tmp_path / name / "predictions.json").read_text()) for name in "ab")
    assert {k: v for k, v in ours.items() if k in ("images", "categories")} == {
        k: v for k, v in theirs.items() if k in ("images", "categories")
    }
    assert ours["info"] | {"source": ""} == theirs["info"] | {"source": ""}
    assert len(ours["annotations"]) == len(theirs["annotations"]) > 20
    for ours_row, row in zip(ours["annotations"], theirs["annotations"]):
        assert ours_row["category_id"] == row["category_id"] and ours_row["image_id"] == row["image_id"]
        np.testing.assert_allclose(ours_row["bbox"], row["bbox"], atol=0.1)
        assert ours_row["score"] == pytest.approx(row["score"], abs=1e-4)
    for name in ("0.png", "3.png"):
        pixels = [np.asarray(Image.open(tmp_path / one / "pictures" / name)).astype(int) for one in "ab"]
        assert np.abs(pixels[0] - pixels[1]).mean() < 1


def test_evaluation_takes_the_file_too(shipped, photographs):
    model, folder = shipped
    detector = ExportedDetector.load(folder / "model.onnx", trusted=False)
    assert_same(find(detector, photographs[0]), find(model, photographs[0]))


def test_the_device_is_onnxruntimes_to_choose(shipped, photographs, tmp_path, monkeypatch):
    """A GPU that torch sees is none for an onnxruntime of CPUs."""
    onnxruntime = pytest.importorskip("onnxruntime")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    for name, value in {"is_available": True, "device_count": 1, "current_device": 0}.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    Image.fromarray(photographs[0]).save(tmp_path / "a.png")
    file, inputs = str(shipped[1] / "model.onnx"), [str(tmp_path / "a.png")]
    assert predict_exported(file, inputs, str(tmp_path / "found"), trusted=False).images == 1
    with pytest.raises(UserError, match="--device cuda: the installed onnxruntime has CPUExecutionProvider"):
        predict_exported(file, inputs, str(tmp_path / "found"), trusted=False, device="cuda")


@pytest.mark.parametrize("content", [b"", b"no model", "cut", "foreign"])
def test_files_of_other_kinds_are_named(shipped, tmp_path, content):
    whole = (shipped[1] / "model.onnx").read_bytes()
    if content == "foreign":
        import onnx

        node = onnx.helper.make_node("Identity", ["x"], ["y"])
        values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
        content = onnx.helper.make_model(
            onnx.helper.make_graph([node], "g", values[:1], values[1:])
        ).SerializeToString()
    elif content == "cut":
        content = whole[: len(whole) // 2]
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(UserError, match=r"model\.onnx is no model that loradet export wrote, or it is cut short"):
        OnnxDetector(tmp_path / "model.onnx")


def export(model, output, **options):
    return export_detector(
        model=model,
        output=output,
        classes=Classes(CLASSES, [1, 2, 3, 4, 5, 6]),
        resizing=Resizing(),
        input_size=(64, 96),
        **options,
    )


def test_what_cannot_be_exported_is_named(tmp_path):
    with pytest.raises(UserError, match="a Linear, which cannot be exported; these can: RetinaNet, FCOS"):
        export(torch.nn.Linear(1, 1).eval(), tmp_path / "m.onnx")


def test_a_detector_that_finds_something_else_is_not_exported(shipped, tmp_path):
    model, _ = shipped
    own = model.forward_inference

    def shifted(*inputs):
        results = own(*inputs)
        for found in results:
            found.pred_boxes.tensor[:, 0::2] += 0.2
        return results

    model.forward_inference = shifted
    try:
        with pytest.raises(UserError, match=r"not exported: one size, .* image of 64x96 .* have no equal; the"):
            export(model, tmp_path / "m.onnx", dynamic=False)
    finally:
        del model.forward_inference
    assert not (tmp_path / "m.onnx").exists()


def test_an_opset_without_an_operator_is_one_line(shipped, tmp_path):
    with pytest.raises(UserError, match="opset 8") as caught:
        export(shipped[0], tmp_path / "m.onnx", dynamic=False, opset=8)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_package_that_is_missing_is_named(shipped, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"{package}, which is not installed: pip install 'loradet\[onnx\]'"):
        if package == "onnx":
            export(shipped[0], tmp_path / "m.onnx")
        else:
            predict_onnx(str(shipped[1] / "model.onnx"), [str(tmp_path.parent)], str(tmp_path))


def test_weights_of_half_precision_take_half_of_the_bytes(shipped, photographs, tmp_path):
    metadata = export(shipped[0], tmp_path / "m.onnx", dynamic=False, half_weights=True)
    assert "float16" in metadata["weights"] and metadata["input"]["size"] == [64, 96]
    assert (tmp_path / "m.onnx").stat().st_size < 0.55 * (shipped[1] / "model.onnx").stat().st_size
    image = next(image for image in photographs if image.shape[0] >= 64 and image.shape[1] >= 96)[:64, :96]
    (found,) = OnnxDetector(tmp_path / "m.onnx")([Sample(image, 64, 96)])
    boxes, scores, _ = find(shipped[0], image)
    assert len(scores) > 5
    np.testing.assert_allclose(found.scores[:5], scores[:5], atol=0.01)
    np.testing.assert_allclose(found.boxes[0], boxes[0], atol=0.5)


@pytest.mark.slow
def test_eight_bits_find_nearly_the_same(shipped, photographs, tmp_path):
    files = []
    for number, image in enumerate([one for one in photographs if min(one.shape[:2]) >= 96][:4]):
        files.append(tmp_path / f"{number}.png")
        Image.fromarray(image[:64, :96]).save(files[-1])
    metadata = export(shipped[0], tmp_path / "m.onnx", dynamic=False, calibration=files)
    assert metadata["weights"].startswith("int8") and "4 images" in metadata["weights"]
    assert (tmp_path / "m.onnx").stat().st_size < 0.4 * (shipped[1] / "model.onnx").stat().st_size
    detector = OnnxDetector(tmp_path / "m.onnx")
    for file in files:
        image = np.asarray(Image.open(file))
        (found,) = detector([Sample(image, 64, 96)])
        _, scores, _ = find(shipped[0], image)
        np.testing.assert_allclose(found.scores[:3], scores[:3], atol=0.15)
