"""Detectors of transformers against the library itself: losses, outputs, post-processing."""

import pytest
import torch
from detectron2.utils.events import EventStorage
from helpers.library_detectors import OPTIONS, build, items, library_model, needs_transformers

pytestmark = needs_transformers
# Every kind on a backbone of ours; on the library's own, those whose backbones differ in what is asked of them.
QUICK = {"d_fine", "deformable_detr", "rf_detr"}
CASES = [
    pytest.param(family, own, marks=pytest.mark.slow if own and family not in QUICK else (), id=f"{family}-{word}")
    for own, word in ((False, "our-backbone"), (True, "own-backbone"))
    for family in OPTIONS
]


def processor(family):
    import transformers

    names = {"deformable_detr": "DeformableDetrImageProcessor", "lw_detr": "DeformableDetrImageProcessor"}
    return getattr(transformers, names.get(family, "RTDetrImageProcessor"))()


def normalised(model, batch):
    return torch.stack([(item["image"] - model.pixel_mean) / model.pixel_std for item in batch])


@pytest.mark.parametrize(("family", "own"), CASES)
def test_detections_are_the_librarys(family, own):
    model = build(family, own=own).eval()
    batch = items((64, 96), (64, 96)) if family != "rf_detr" else items((64, 64), (64, 64))
    height, width = batch[0]["image"].shape[-2:]
    with torch.no_grad():
        found = [output["instances"] for output in model(batch)]
        output = library_model(model).eval()(pixel_values=normalised(model, batch))
    wanted = processor(family).post_process_object_detection(output, threshold=0.0, target_sizes=[(height, width)] * 2)
    for ours, theirs in zip(found, wanted):
        boxes = theirs["boxes"].clamp(min=0)
        boxes = torch.minimum(boxes, torch.tensor([width, height, width, height]))
        kept = (boxes[:, 2:] > boxes[:, :2]).all(1)
        assert kept.sum() > 5
        torch.testing.assert_close(ours.scores, theirs["scores"][kept], rtol=0, atol=1e-5)
        assert torch.equal(ours.pred_classes, theirs["labels"][kept])
        torch.testing.assert_close(ours.pred_boxes.tensor, boxes[kept], rtol=1e-5, atol=1e-5)
        assert len(set(ours.scores.tolist())) > 5  # no ties that would make any order right


@pytest.mark.parametrize(("family", "own"), CASES)
def test_losses_are_the_librarys(family, own):
    model = build(family, own=own).train()
    batch = items((64, 64), (64, 64))
    network = library_model(model).train()
    labels = [
        {"class_labels": item["instances"].gt_classes, "boxes": centre_size(item["instances"].gt_boxes.tensor) / 64}
        for item in batch
    ]
    torch.manual_seed(5)  # of denoising queries and dropout
    wanted = network(pixel_values=normalised(model, batch), labels=labels)
    torch.manual_seed(5)
    with EventStorage() as storage:
        losses = model(batch)
    total = sum(losses.values())
    torch.testing.assert_close(total, wanted.loss, rtol=1e-5, atol=1e-5)
    names = {name for name in wanted.loss_dict if name.startswith("loss_")}
    assert names == set(losses)
    metrics = {name for name in wanted.loss_dict if name not in names}
    assert metrics == set(storage.latest())
    # And what trains by them.
    total.backward()
    wanted.loss.backward()
    theirs = dict(network.named_parameters())
    for name, parameter in model.network.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            torch.testing.assert_close(parameter.grad, theirs[name].grad, rtol=1e-4, atol=1e-5, msg=name)


def centre_size(boxes):
    return torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], dim=1)
