"""What a network of transformers is trained by, as Detectron2 takes it."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from loradet.event_storage import put_tensors

METRICS = ("cardinality_error",)


def weighted_losses(losses: Mapping[str, Tensor], config: Any, *, is_weighted: bool) -> dict[str, Tensor]:
    """Losses by the library's names, whose sum is what the library trains; its metrics go to the event storage.

    Args:
        losses: `loss_dict` of the library.
        config: of the network.
        is_weighted: whether they have been multiplied by their weights.
    """
    kept = {name: value for name, value in losses.items() if name.startswith("loss_")}
    if metrics := {name: value for name, value in losses.items() if name.startswith(METRICS)}:
        put_tensors(metrics)
    if is_weighted:
        return kept
    weights = {
        "loss_ce": getattr(config, "class_loss_coefficient", 1),
        "loss_bbox": config.bbox_loss_coefficient,
        "loss_giou": config.giou_loss_coefficient,
    }
    return {name: value * weights["_".join(name.split("_")[:2])] for name, value in kept.items()}


def last_layer_distribution_loss(output: Any, labels: Sequence[Mapping[str, Tensor]], config: Any) -> Tensor:
    """The fine-grained localization loss (https://arxiv.org/abs/2410.13842) of D-FINE's last decoder layer.

    The library (5.24) leaves it out of that layer, and has it in all others; the authors train it in all.

    Args:
        output: the network's, in training.
        labels: that it was given.
        config: of the network.
    """
    from transformers.loss.loss_d_fine import DFineLoss

    criterion = DFineLoss(config).to(output.logits.device)
    last = {
        "logits": output.logits,
        "pred_boxes": output.pred_boxes.clamp(0, 1),
        "pred_corners": output.intermediate_predicted_corners[:, -1],
        "ref_points": output.initial_reference_points[:, -1],
    }
    if (split := output.denoising_meta_values) is not None:
        last = {name: torch.split(value, split["dn_num_split"], dim=1)[1] for name, value in last.items()}
    # The last layer is its own teacher: nothing is distilled into it.
    last |= {"teacher_corners": last["pred_corners"], "teacher_logits": last["logits"]}
    boxes = max(sum(len(label["class_labels"]) for label in labels), 1)
    losses = criterion.loss_local(last, labels, criterion.matcher(last, labels), boxes)
    return losses["loss_fgl"] * config.weight_loss_fgl
