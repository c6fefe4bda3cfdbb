"""The configs of Faster and Cascade R-CNN: sizes, classes from the data, a training step, detections."""

import json

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.data.catalog import Metadata
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from helpers.paths import ROOT
from omegaconf import DictConfig, OmegaConf

from loradet.config.class_count import complete_class_count
from loradet.model import check_classes

CONFIGS = ROOT / "configs" / "common" / "models"
NAMES = ["faster_rcnn_fpn", "cascade_rcnn", "cascade_rcnn_sfp"]
EVERY = pytest.mark.parametrize("name", NAMES)

RESNET50 = 23_508_032  # torchvision's resnet50, without its classifier; batch norms counted
RESNET50_NORMS = 2 * (64 + (64 + 64 + 256) * 3 + 256 + (128 + 128 + 512) * 4 + 512 + (256 + 256 + 1024) * 6 + 1024)
RESNET50_NORMS += 2 * ((512 + 512 + 2048) * 3 + 2048)
STEM_AND_RES2 = 3 * 64 * 49 + 64 * 256 + (64 * 64 + 64 * 64 * 9 + 64 * 256) + 2 * (256 * 64 + 64 * 64 * 9 + 64 * 256)


def linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


FPN = sum(linear(width, 256) + linear(256 * 9, 256) for width in (256, 512, 1024, 2048))
RPN_OUTPUTS = linear(256, 3) + linear(256, 3 * 4)
TWO_LAYERS = linear(256 * 7 * 7, 1024) + linear(1024, 1024)


def config(name: str, classes: int | list[str] | None = 80) -> DictConfig:
    cfg = LazyConfig.load(str(CONFIGS / f"{name}.py"))
    names = [f"class {i}" for i in range(classes)] if isinstance(classes, int) else classes
    cfg.data = OmegaConf.create({"train_json": "/none.json", "classes": names})
    complete_class_count(cfg)
    return cfg


def small(name: str, classes: int | list[str] | None = 2) -> DictConfig:
    """The config with a narrow pyramid, few proposals and, for the plain backbone, a small one."""
    cfg = config(name, classes)
    model = cfg.model
    model.backbone.out_channels = 16
    model.proposal_generator.pre_nms_topk = model.proposal_generator.post_nms_topk = [60, 40]
    model.roi_heads.batch_size_per_image = 24
    if name == "cascade_rcnn_sfp":
        small_vit(model.backbone.net)
        for head in model.roi_heads.box_heads:
            head.conv_dims = [16, 16]
    predictors = [model.roi_heads.box_predictor] if name == "faster_rcnn_fpn" else model.roi_heads.box_predictors
    for predictor in predictors:
        predictor.test_score_thresh = 0.0
    return cfg


def small_vit(net: DictConfig) -> None:
    net.embed_dim, net.depth, net.num_heads, net.window_block_indexes = 32, 2, 2, [0]


def meta(cfg: DictConfig) -> torch.nn.Module:
    """The model without memory for its weights, where its classes can be built so."""
    if "net" in cfg.model.backbone:
        return instantiate(cfg.model)
    with torch.device("meta"):
        return instantiate(cfg.model)


def size(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def images(count: int = 2) -> list[dict]:
    generator = torch.Generator().manual_seed(0)
    items = []
    for i in range(count):
        height, width = (64, 96) if i == 0 else (96, 80)
        truth = Instances((height, width))
        truth.gt_boxes = Boxes(torch.tensor([[4.0, 4, 50, 50], [20, 10, 70, 60]]))
        truth.gt_classes = torch.tensor([0, 1])
        image = torch.randint(0, 256, (3, height, width), generator=generator).float()
        items.append({"image": image, "instances": truth, "height": 2 * height, "width": 2 * width})
    return items


@pytest.mark.parametrize("classes", [1, 10, 80])
def test_faster_rcnn_has_detectron2s_number_of_parameters(classes):
    model = meta(config("faster_rcnn_fpn", classes))
    predictor = linear(1024, classes + 1) + linear(1024, 4 * classes)
    convolutions = RESNET50 - RESNET50_NORMS
    total = convolutions + FPN + linear(256 * 9, 256) + RPN_OUTPUTS + TWO_LAYERS + predictor
    assert size(model) == total
    assert {80: 41_699_936}.get(classes, total) == total  # as Detectron2's, whose frozen norms are no parameters
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert all(name.startswith(("backbone.bottom_up.stem.", "backbone.bottom_up.res2.")) for name in frozen)
    assert sum(p.numel() for p in model.parameters() if not p.requires_grad) == STEM_AND_RES2


@pytest.mark.parametrize("classes", [1, 80])
def test_the_cascade_has_three_heads_with_one_box_for_all_classes(classes):
    model, faster = meta(config("cascade_rcnn", classes)), meta(config("faster_rcnn_fpn", classes))
    stage = TWO_LAYERS + linear(1024, classes + 1) + linear(1024, 4)
    assert size(model.roi_heads) == 3 * stage
    assert size(model) - size(model.roi_heads) == size(faster) - size(faster.roi_heads)
    assert [m.thresholds[1] for m in model.roi_heads.proposal_matchers] == [0.5, 0.6, 0.7]
    weights = [tuple(p.box2box_transform.weights) for p in model.roi_heads.box_predictor]
    assert weights == [(10, 10, 5, 5), (20, 20, 10, 10), (30, 30, 15, 15)]


def test_the_simple_pyramid_has_vitdets_layers():
    cfg = config("cascade_rcnn_sfp", 1)
    small_vit(cfg.model.backbone.net)
    model = meta(cfg)
    assert {name: shape.stride for name, shape in model.backbone.output_shape().items()} == {
        "p2": 4,
        "p3": 8,
        "p4": 16,
        "p5": 32,
        "p6": 64,
    }
    norm, width = 2 * 256, 32
    to_256 = [from_ * 256 + norm + 256 * 256 * 9 + norm for from_ in (width // 4, width // 2, width, width)]
    p2 = width * (width // 2) * 4 + width // 2 + 2 * (width // 2) + (width // 2) * (width // 4) * 4 + width // 4
    p3 = width * (width // 2) * 4 + width // 2
    assert size(model.backbone) - size(model.backbone.net) == sum(to_256) + p2 + p3
    head = 4 * (256 * 256 * 9 + norm) + linear(256 * 7 * 7, 1024)
    assert [size(box_head) for box_head in model.roi_heads.box_head] == [head] * 3
    assert size(model.proposal_generator) == 2 * linear(256 * 9, 256) + RPN_OUTPUTS


@EVERY
def test_classes_follow_the_data(name, tmp_path):
    categories = [{"id": i, "name": f"c{i}"} for i in (3, 7, 90)]
    (tmp_path / "train.json").write_text(json.dumps({"images": [], "annotations": [], "categories": categories}))
    for classes, expected in ((None, 3), (["c7"], 1)):
        cfg = small(name, classes)
        cfg.data.train_json = str(tmp_path / "train.json")
        heads = meta(cfg).roi_heads
        predictors = [heads.box_predictor] if name == "faster_rcnn_fpn" else list(heads.box_predictor)
        assert heads.num_classes == expected
        assert [p.num_classes for p in predictors] == [expected] * len(predictors)
        assert [len(p.cls_score.bias) for p in predictors] == [expected + 1] * len(predictors)


@EVERY
def test_a_training_step_and_detections(name):
    torch.manual_seed(0)
    model = instantiate(small(name).model)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=1e-4)
    with EventStorage():
        losses = model.train()(images())
    suffixes = [""] if name == "faster_rcnn_fpn" else ["_stage0", "_stage1", "_stage2"]
    heads = {f"loss_{kind}{suffix}" for kind in ("cls", "box_reg") for suffix in suffixes}
    assert set(losses) == heads | {"loss_rpn_cls", "loss_rpn_loc"}
    assert all(loss.shape == () and torch.isfinite(loss) and loss > 0 for loss in losses.values())
    sum(losses.values()).backward()
    assert [key for key, p in model.named_parameters() if (p.grad is None) == p.requires_grad] == []
    optimizer.step()
    frozen = ("backbone.bottom_up.stem.", "backbone.bottom_up.res2.")
    for key, tensor in model.state_dict().items():
        if key.startswith(frozen) or "running" in key or (".norm." in key and "bottom_up" in key):
            assert torch.equal(tensor, before[key]), key
    trained = "proposal_generator.rpn_head.objectness_logits.weight"
    assert not torch.equal(model.state_dict()[trained], before[trained])

    with torch.no_grad():
        results = model.eval()(images())
    for item, result in zip(images(), results):
        found = result["instances"]
        assert found.image_size == (item["height"], item["width"])
        assert 0 < len(found) <= 100 and found.pred_boxes.tensor.shape == (len(found), 4)
        height, width = found.image_size
        limits = torch.tensor([width, height, width, height])
        assert (found.pred_boxes.tensor >= 0).all() and (found.pred_boxes.tensor <= limits).all()
        assert set(found.pred_classes.tolist()) <= {0, 1}
        assert (found.scores.diff() <= 0).all() and found.scores.max() <= 1


@EVERY
def test_a_saved_config_builds_the_same_model(name, tmp_path):
    cfg = small(name, 3)
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    again = meta(LazyConfig.load(str(tmp_path / "config.yaml")))
    expected = {key: tensor.shape for key, tensor in meta(cfg).state_dict().items()}
    assert {key: tensor.shape for key, tensor in again.state_dict().items()} == expected


@EVERY
def test_another_number_of_classes_than_the_datas_is_an_error(name):
    model = meta(small(name, 3))
    check_classes(model, Metadata(thing_classes=["a", "b", "c"]))
    message = r"model\.roi_heads\.num_classes=3, but coco\.json has 2 categories: a, b"
    with pytest.raises(ValueError, match=message):
        check_classes(model, Metadata(thing_classes=["a", "b"], json_file="coco.json"))


def test_names_are_detectron2s():
    names = set(meta(config("faster_rcnn_fpn")).state_dict())
    assert {
        "backbone.bottom_up.stem.conv1.norm.running_var",
        "backbone.bottom_up.res2.0.shortcut.weight",
        "backbone.fpn_lateral2.bias",
        "backbone.fpn_output5.weight",
        "proposal_generator.rpn_head.conv.weight",
        "roi_heads.box_head.fc2.weight",
        "roi_heads.box_predictor.bbox_pred.weight",
    } <= names


def test_weights_and_norm_are_one_override_each(tmp_path):
    cfg = small("faster_rcnn_fpn")
    cfg.model.backbone.bottom_up.module.weights = str(tmp_path / "none.pth")
    with pytest.raises(FileNotFoundError, match=r"none\.pth"):
        instantiate(cfg.model)
    cfg.model.backbone.bottom_up.module.weights = None
    cfg.model.backbone.bottom_up = cfg.model.backbone.bottom_up.module
    cfg.model.backbone.bottom_up.net.stem.norm = "BN"
    model = meta(cfg)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert size(model.backbone.bottom_up) == RESNET50
