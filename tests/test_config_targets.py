"""What saved configs call stays where they say it is: a `config.yaml` of an older run still builds its model."""

import pytest
from detectron2.config import LazyConfig
from detectron2.utils.registry import _convert_target_to_string, locate
from omegaconf import DictConfig, ListConfig, OmegaConf

from loradet.config.library import LIBRARY, list_configs

# Dotted paths that configs have been saved with. Lines may come; none goes, and none is written otherwise: the identity
# of a run, by which it is resumed, is taken over them.
SAVED = {
    "loradet.adapters.freeze",
    "loradet.adapters.adaptformer",
    "loradet.adapters.lora",
    "loradet.adapters.lora_plus",
    "loradet.adapters.mona",
    "loradet.backbones.TimmBackbone",
    "loradet.backbones.TimmViT",
    "loradet.backbones.VisionMamba",
    "loradet.backbones.batch_norm.batch_norm_for",
    "loradet.backbones.batch_norm.gathers_statistics",
    "loradet.backbones.resnet_stages.resnet_stages",
    "loradet.backbones.resnet_weights.resnet_with_weights",
    "loradet.datasets.affine.RandomAffine",
    "loradet.datasets.classes.count_classes",
    "loradet.datasets.coco_dataset",
    "loradet.datasets.count_voc_classes",
    "loradet.datasets.count_yolo_classes",
    "loradet.datasets.loader.build_train_loader",
    "loradet.datasets.mapper.DetectionMapper",
    "loradet.datasets.voc_dataset",
    "loradet.datasets.yolo_dataset",
    "loradet.detectors.TransformersDetector",
    "loradet.detectors.detr.DETR",
    "loradet.detectors.detr.DetrTransformer",
    "loradet.detectors.detr.HungarianMatcher",
    "loradet.detectors.detr.PositionEmbeddingSine",
    "loradet.detectors.detr.SetCriterion",
    "loradet.detectors.detr.TorchvisionResNet",
    "loradet.detectors.feature_shape.feature_shape",
    "loradet.detectors.pyramid.pyramid",
    "loradet.evaluation.BoxEvaluator",
    "loradet.evaluation.CalibrationEvaluator",
    "loradet.training.schedule.warmup",
}


def targets(node):
    """Dotted paths of what a config calls, as it is saved."""
    if isinstance(node, ListConfig):
        places = range(len(node))
    elif isinstance(node, DictConfig):
        places = list(node.keys())
    else:
        return
    for place in places:
        if OmegaConf.is_missing(node, place) or OmegaConf.is_interpolation(node, place):
            continue
        if place == "_target_" and not isinstance(node[place], DictConfig):
            yield node[place] if isinstance(node[place], str) else _convert_target_to_string(node[place])
        else:
            yield from targets(node[place])


@pytest.mark.parametrize("path", sorted(SAVED))
def test_a_saved_path_leads_to_what_is_saved_under_it(path):
    assert _convert_target_to_string(locate(path)) == path


def test_configs_call_nothing_by_a_path_that_is_not_listed():
    found = {target for name in list_configs() for target in targets(LazyConfig.load(str(LIBRARY / name)))}
    ours = {target for target in found if target.startswith("loradet.")}
    assert len(ours) > 20 and ours <= SAVED
