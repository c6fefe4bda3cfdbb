"""Configs of the model zoo: found, equal to Detectron2's, changed as its users change them, built."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2 import model_zoo
from detectron2.config import LazyConfig, instantiate
from detectron2.modeling import FCOS, GeneralizedRCNN, RetinaNet
from detectron2.modeling.roi_heads import CascadeROIHeads, StandardROIHeads
from detectron2.utils.registry import _convert_target_to_string
from omegaconf import DictConfig, OmegaConf
from torch import nn

MASKS = ["mask_in_features", "mask_pooler", "mask_head"]
FILES = [
    "common/coco_schedule.py",
    "common/data/coco.py",
    "common/data/constants.py",
    "common/models/cascade_rcnn.py",
    "common/models/fcos.py",
    "common/models/mask_rcnn_fpn.py",
    "common/models/retinanet.py",
    "common/optim.py",
    "common/train.py",
]


def plain(value: Any) -> Any:
    """Containers sorted by key, callables by their names."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in sorted(value.items())}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return _convert_target_to_string(value) if callable(value) else value


@pytest.mark.golden
@pytest.mark.parametrize("file", FILES)
def test_keys_values_and_interpolations_are_those_of_detectron2(file, golden_d2: Path):
    """Recorded from Detectron2 0.6 (main of 2026-06-06)."""
    recorded = json.loads((golden_d2 / "model_zoo.json").read_text())["configs"]
    assert sorted(recorded) == FILES
    cfg = model_zoo.get_config(file)
    produced = json.loads(json.dumps(plain(OmegaConf.to_container(cfg, resolve=False))))
    assert produced == recorded[file]
    OmegaConf.to_container(cfg, resolve=True)


def boxes_only(file: str) -> DictConfig:
    model = model_zoo.get_config(f"common/models/{file}").model
    if "roi_heads" in model:
        [model.roi_heads.pop(x) for x in MASKS]
    return model


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("retinanet.py", RetinaNet),
        ("fcos.py", FCOS),
        ("mask_rcnn_fpn.py", GeneralizedRCNN),
        ("cascade_rcnn.py", GeneralizedRCNN),
    ],
)
def test_models_build_and_detect(file, kind):
    cfg = boxes_only(file)
    (cfg.roi_heads if "roi_heads" in cfg else cfg).num_classes = 5
    model = instantiate(cfg).eval()
    assert type(model) is kind
    with torch.no_grad():
        (result,) = model([{"image": torch.zeros(3, 64, 64)}])
    assert result["instances"].has("pred_classes")
    heads = getattr(model, "roi_heads", None)
    if heads is None:
        assert model.num_classes == 5 and model.head.cls_score.out_channels in (5, 5 * 9)
    else:
        assert type(heads) is {"mask_rcnn_fpn.py": StandardROIHeads, "cascade_rcnn.py": CascadeROIHeads}[file]
        predictors = heads.box_predictor if isinstance(heads.box_predictor, nn.ModuleList) else [heads.box_predictor]
        assert all(predictor.cls_score.out_features == 6 for predictor in predictors)


def test_schedules_end_at_a_hundredth():
    schedules = model_zoo.get_config("common/coco_schedule.py")
    assert sorted(schedules) == [f"lr_multiplier_{n}x" for n in (1, 2, 3, 6, 9)]
    for name, cfg in schedules.items():
        factor = instantiate(cfg)
        assert factor(0) == pytest.approx(0.001) and factor(0.5) == 1 and factor(0.9999) == pytest.approx(0.01)
        warmup = 1000 / 90000 / int(name[-2])
        assert factor(warmup / 2) == pytest.approx(0.5, abs=0.01) and factor(warmup * 1.01) == 1


@pytest.mark.parametrize(("name", "rate"), [("SGD", 0.02), ("AdamW", 1e-4)])
def test_optimizers_take_the_model_at_the_end(name, rate):
    cfg = model_zoo.get_config("common/optim.py")[name]
    cfg.params.model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    optimizer = instantiate(cfg)
    assert isinstance(optimizer, getattr(torch.optim, name))
    assert {group["lr"] for group in optimizer.param_groups} == {rate}
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, cfg.weight_decay}


def test_the_data_follow_what_a_user_changes():
    dataloader = model_zoo.get_config("common/data/coco.py").dataloader
    dataloader.train.mapper.use_instance_mask = False
    dataloader.train.mapper.image_format = "RGB"
    dataloader.test.dataset.names = "my_val"
    assert dataloader.evaluator.dataset_name == "my_val"
    for split, sizes in (("train", [640, 672, 704, 736, 768, 800]), ("test", [800, 800])):
        mapper = instantiate(dataloader[split].mapper)
        assert mapper.image_format == "RGB"
        resize = mapper.augmentations.augs[0]
        assert list(resize.short_edge_length) == sizes and resize.max_size == 1333


def test_two_loads_share_nothing():
    first, second = (model_zoo.get_config("common/models/retinanet.py").model for _ in range(2))
    first.head.input_shape[0].channels = 7
    first.backbone.bottom_up.stages.depth = 18
    assert second.head.input_shape[0].channels == 256 and second.backbone.bottom_up.stages.depth == 50


def test_files_load_by_path_and_by_relative_import_and_come_back_from_yaml(tmp_path):
    file = Path(model_zoo.get_config_file("common/models/cascade_rcnn.py"))
    assert file.is_file() and LazyConfig.load(str(file)) == model_zoo.get_config("common/models/cascade_rcnn.py")
    shutil.copytree(file.parents[1], tmp_path / "common")
    (tmp_path / "own.py").write_text(
        "from .common.models.cascade_rcnn import model\n"
        "from .common.coco_schedule import default_X_scheduler\n"
        f"[model.roi_heads.pop(x) for x in {MASKS}]\n"
        "model.backbone.bottom_up.stages.depth = 18\n"
        "model.backbone.bottom_up.stages.pop('stride_in_1x1')\n"
        "lr_multiplier = default_X_scheduler(4)\n"
    )
    cfg = LazyConfig.load(str(tmp_path / "own.py"))
    assert cfg.lr_multiplier.scheduler.milestones == [300000, 340000, 360000]
    LazyConfig.save(cfg, str(tmp_path / "saved.yaml"))
    again = instantiate(LazyConfig.load(str(tmp_path / "saved.yaml")).model)
    assert list(again.state_dict()) == list(instantiate(cfg.model).state_dict())


def test_get_builds_a_model_in_training_mode():
    model = model_zoo.get("common/models/retinanet.py", device="cpu")
    assert isinstance(model, RetinaNet) and model.training and model.device.type == "cpu"


def test_what_is_not_there_is_a_runtime_error():
    for function in (model_zoo.get, model_zoo.get_config, model_zoo.get_config_file):
        with pytest.raises(RuntimeError, match=r"Invalid/config\.yaml"):
            function("Invalid/config.yaml")
    with pytest.raises(RuntimeError, match=r"common/models/retinanet\.py"):
        model_zoo.get_checkpoint_url("common/models/retinanet.py")
    with pytest.raises(RuntimeError, match=r"common/models/retinanet\.py"):
        model_zoo.get_config("common/models/retinanet.py", trained=True)


@pytest.mark.subset
def test_what_is_not_there_is_said_with_what_is():
    says = r"is not part of the embedded subset.*installed Detectron2"
    with pytest.raises(RuntimeError, match=rf"'COCO-Detection/x\.yaml'; it has: {', '.join(FILES)}\..*{says}"):
        model_zoo.get_config("COCO-Detection/x.yaml")
    with pytest.raises(RuntimeError, match=rf"no trained weights.*{says}.*train\.init_checkpoint"):
        model_zoo.get_checkpoint_url("COCO-Detection/retinanet_R_50_FPN_1x.yaml")
    with pytest.raises(RuntimeError, match=r"common/optim\.py describes no model; it has: SGD, AdamW"):
        model_zoo.get("common/optim.py")
    model = model_zoo.get_config("common/models/mask_rcnn_fpn.py").model
    with pytest.raises(ImportError, match=rf"detectron2\.modeling\.roi_heads\.MaskRCNNConvUpsampleHead {says}"):
        instantiate(model)
    with pytest.raises(NotImplementedError, match="use_instance_mask"):
        instantiate(model_zoo.get_config("common/data/coco.py").dataloader.train.mapper)
