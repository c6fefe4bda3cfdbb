"""Every detector and backbone in both formats: what is written finds what the detector finds, at several sizes."""

import pytest
import torch
from helpers.small_models import BACKBONES, TORCHVISION_RESNET, build
from torch import nn

from loradet.export.classes import Classes
from loradet.export.detector import export_detector
from loradet.export.resizing import Resizing
from loradet.inference import ExportedDetector

DETECTORS = ["RetinaNet", "FCOS", "Faster R-CNN", "Cascade R-CNN", "DETR"]
CASES = [(backbone, detector) for backbone in BACKBONES for detector in DETECTORS if detector != "FCOS"]
CASES.remove(("ViTDet-ViT", "DETR"))  # the exporters take minutes to find that they cannot
CASES += [("torchvision ResNet", "DETR"), ("Detectron2 ResNet", "FCOS")]
# Window attention of Detectron2's ViT is made for the size that it sees, as ViTDet's configs pad to squares.
# torch.export does not keep sizes open that are multiples of nothing.
FIXED = {("ViTDet-ViT", name, format) for name in DETECTORS for format in ("onnx", "torch")}
FIXED |= {("VisionMamba", name, "torch") for name in DETECTORS if name != "DETR"}
FIXED |= {("torchvision ResNet", "DETR", "torch")}
QUICK = {("ConvNeXt", "Faster R-CNN", "onnx"), ("ConvNeXt", "DETR", "onnx")}


def fcos() -> nn.Module:
    from detectron2.config import LazyCall as L
    from detectron2.config import instantiate
    from detectron2.layers import ShapeSpec
    from detectron2.model_zoo import get_config
    from detectron2.modeling import ResNet
    from detectron2.modeling.backbone.resnet import BasicBlock

    model = get_config("common/models/fcos.py").model
    model.num_classes = 3
    model.backbone.bottom_up.stem.out_channels = 8
    model.backbone.bottom_up.stages = [
        L(ResNet.make_stage)(block_class=BasicBlock, num_blocks=1, in_channels=i, out_channels=o, stride=o // i)
        for i, o in ((8, 8), (8, 16), (16, 32), (32, 64))
    ]
    for stage in model.backbone.bottom_up.stages:
        stage.norm = "FrozenBN"
    model.backbone.out_channels = model.backbone.top_block.in_channels = 32
    model.head.input_shape = [ShapeSpec(channels=32)] * 5
    model.head.conv_dims = [64]  # two channels a group of the norm: one pixel of P7 alone has no deviation
    return instantiate(model)


def detector(backbone: str, name: str) -> nn.Module:
    """With weights that spread its scores."""
    torch.manual_seed(1)
    if name == "FCOS":
        model = fcos()
    else:
        model = build({**BACKBONES, "torchvision ResNet": TORCHVISION_RESNET}[backbone], name, "full")
    for key, parameter in model.named_parameters():
        is_own = "backbone" not in key or "simfp" in key or ("fpn" in key and name != "FCOS")
        if parameter.dim() > 1 and is_own:
            nn.init.normal_(parameter, std=1.4 / parameter[0].numel() ** 0.5)
    if name == "FCOS":
        nn.init.zeros_(model.head.cls_score.bias)
    return model.eval()


def cases():
    for backbone, name in CASES:
        for format in ("onnx", "torch"):
            marks = [] if (backbone, name, format) in QUICK else [pytest.mark.slow]
            yield pytest.param(backbone, name, format, marks=marks, id=f"{backbone}-{name}-{format}")


@pytest.mark.parametrize(("backbone", "name", "format"), list(cases()))
def test_a_detector_is_exported_and_finds_the_same(tmp_path, backbone, name, format):
    if format == "onnx":
        pytest.importorskip("onnx", reason="onnx is not installed: pip install 'loradet[onnx]'")
        pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'loradet[onnx]'")
    model = detector(backbone, name)
    file = tmp_path / ("model.onnx" if format == "onnx" else "model.pt2")
    metadata = export_detector(
        model=model, output=file, classes=Classes(["a", "b", "c"], [1, 2, 3]), resizing=Resizing(), input_size=(96, 128)
    )
    checked, fixed = metadata["checked"], metadata["input"]["size"]
    assert checked["detections"] >= 5 and checked["pixels"] < 0.1 and checked["score"] < 1e-4
    if (backbone, name, format) in FIXED:
        assert fixed == [96, 128] and metadata["input"]["fixed_because"]
    else:
        assert fixed is None and metadata["input"]["batch"] is None and checked["images"] == 6
    # Once more as it is used: two images of different sizes in one batch.
    sizes = [(96, 128), (96, 128)] if fixed else [(90, 141), (120, 77)]
    generator = torch.Generator().manual_seed(3)
    batch = [{"image": torch.randint(0, 256, (3, *size), generator=generator).float()} for size in sizes]
    own = getattr(model, "input_format", "RGB") == "BGR"
    with torch.no_grad():
        found = ExportedDetector.load(file, trusted=True)(batch)
        expected = model([{"image": item["image"].flip(0) if own else item["image"]} for item in batch])
    for ours, theirs in zip(found, expected):
        ours, theirs = ours["instances"], theirs["instances"]
        assert len(ours) == len(theirs) > 0
        near = (ours.pred_boxes.tensor[:, None] - theirs.pred_boxes.tensor).abs().amax(2) < 0.1
        near &= (ours.scores[:, None] - theirs.scores).abs() < 1e-4
        near &= ours.pred_classes[:, None] == theirs.pred_classes
        assert near.any(1).all()
