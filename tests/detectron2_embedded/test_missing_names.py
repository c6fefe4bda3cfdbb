"""What Detectron2 has and the subset does not: every way to import it ends in an error that says where to get it."""

import importlib
from importlib.util import find_spec

import detectron2
import pytest
from detectron2.utils.registry import locate

pytestmark = pytest.mark.subset

SAYS = r"^detectron2\.{} is not part of the embedded subset .*DETECTRON2_EMBEDDED=never"

MODULES = [
    "_C",
    "checkpoint.catalog",
    "config.config",
    "config.defaults",
    "data.benchmark",
    "data.datasets.lvis",
    "data.datasets.lvis_v1_categories",
    "evaluation.sem_seg_evaluation",
    "export",
    "layers.deform_conv",
    "layers.roi_align_rotated",
    "modeling.backbone.swin",
    "modeling.meta_arch.panoptic_fpn",
    "modeling.proposal_generator.rrpn",
    "modeling.roi_heads.keypoint_head",
    "modeling.roi_heads.mask_head",
    "modeling.test_time_augmentation",
    "projects",
    "structures.masks",
    "tracking",
    "utils.video_visualizer",
]

NAMES = [
    "data.detection_utils.get_fed_loss_cls_weights",
    "layers.DeformConv",
    "layers.nms.nms_rotated",
    "modeling.anchor_generator.build_anchor_generator",
    "modeling.backbone.fpn.build_resnet_fpn_backbone",
    "modeling.backbone.resnet.DeformBottleneckBlock",
    "modeling.box_regression.Box2BoxTransformRotated",
    "modeling.build_model",
    "modeling.meta_arch.build.build_model",
    "modeling.postprocessing.sem_seg_postprocess",
    "modeling.proposal_generator.build.build_proposal_generator",
    "modeling.roi_heads.box_head.build_box_head",
    "modeling.proposal_generator.rpn.build_rpn_head",
    "modeling.roi_heads.roi_heads.select_foreground_proposals",
]


@pytest.mark.parametrize("path", MODULES + NAMES)
def test_from_import(path):
    package, _, name = f"detectron2.{path}".rpartition(".")
    with pytest.raises(ImportError, match=SAYS.format(path)):
        exec(f"from {package} import {name}")


@pytest.mark.parametrize("path", MODULES)
def test_import_of_a_module(path):
    for module in (path, f"{path}.something"):
        with pytest.raises(ModuleNotFoundError, match=SAYS.format(path)) as caught:
            importlib.import_module(f"detectron2.{module}")
        assert caught.value.name == f"detectron2.{path}"
    with pytest.raises(ModuleNotFoundError, match=SAYS.format(path)):
        exec(f"from detectron2.{path} import something")


def test_a_config_that_names_one():
    name = "modeling.roi_heads.MaskRCNNConvUpsampleHead"
    with pytest.raises(ImportError, match=SAYS.format(name)):
        locate(f"detectron2.{name}")


def test_other_names_are_as_unknown_as_anywhere():
    assert not hasattr(detectron2, "no_such_module")
    with pytest.raises(ModuleNotFoundError, match="No module named"):
        importlib.import_module("detectron2.no_such_module")
    with pytest.raises(ImportError, match="cannot import name 'no_such_module'"):
        exec("from detectron2 import no_such_module")
    assert find_spec("detectron2.layers.no_such_module") is None
