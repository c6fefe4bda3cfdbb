"""The limit of detections of an image that an evaluation counts."""

from omegaconf import DictConfig

from loradet.config.splits import evaluator_nodes
from loradet.evaluation.detections.numbering import MAX_DETECTIONS


def detection_limit(cfg: DictConfig) -> int:
    """`max_dets_per_image` of the config's evaluator (the first that sets it), else 100."""
    evaluator = cfg.dataloader.get("evaluator")
    for node in evaluator_nodes(evaluator) if evaluator is not None else ():
        if (limit := node.get("max_dets_per_image")) is not None:
            return int(limit)
    return MAX_DETECTIONS
