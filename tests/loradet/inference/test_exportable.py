"""The exportable form of RetinaNet against RetinaNet itself."""

import pytest
import torch
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from helpers.random_detector import assert_same_detections, detector, tensor
from hypothesis import given, settings
from hypothesis import strategies as st

from loradet.adapters import merge
from loradet.export.exportable.registry import exportable


@pytest.fixture(scope="module")
def model():
    return merge(detector())


def run(model, *images):
    """Detections of the exportable form on images of one size, as the model itself returns them."""
    with torch.no_grad():
        boxes, scores, classes, counts = exportable(model)(torch.stack(images).float())
    assert boxes.shape == (len(images), model.max_detections_per_image, 4)
    results = []
    for i, count in enumerate(counts.tolist()):
        assert not scores[i, count:].any() and not boxes[i, count:].any() and not classes[i, count:].any()
        fields = {
            "pred_boxes": Boxes(boxes[i, :count]),
            "scores": scores[i, :count],
            "pred_classes": classes[i, :count],
        }
        results.append(Instances(images[i].shape[-2:], **fields))
    return results


def expected(model, *images):
    with torch.no_grad():
        return [result["instances"] for result in model([{"image": image} for image in images])]


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 1000),
    shape=st.sampled_from([(64, 64), (96, 160), (192, 128)]),
    threshold=st.sampled_from([0.0, 0.05, 0.3, 0.5]),
    candidates=st.sampled_from([20, 150, 1000]),
    limit=st.sampled_from([7, 100, 400]),
    nms=st.sampled_from([0.1, 0.5, 0.9]),
)
def test_detections_equal_the_models_own(model, seed, shape, threshold, candidates, limit, nms):
    own = {
        "test_score_thresh": threshold,
        "test_topk_candidates": candidates,
        "max_detections_per_image": limit,
        "test_nms_thresh": nms,
    }
    before = {name: getattr(model, name) for name in own}
    try:
        for name, value in own.items():
            setattr(model, name, value)
        images = [tensor(*shape, seed=seed), tensor(*shape, seed=seed + 1)]
        for found, wanted in zip(run(model, *images), expected(model, *images)):
            assert_same_detections(found, wanted, least=0)
    finally:
        for name, value in before.items():
            setattr(model, name, value)


def test_many_detections_are_compared(model):
    assert_same_detections(run(model, tensor(192, 192))[0], expected(model, tensor(192, 192))[0], least=90)


def test_boxes_outside_the_image_are_dropped_after_the_limit(model):
    weight = model.head.bbox_pred.bias.data.clone()
    try:
        # All boxes move left by three and a half of their widths: many leave the image, as they do in Detectron2.
        model.head.bbox_pred.bias.data.view(-1, 4)[:, 0] -= 3.5
        found, wanted = run(model, tensor(192, 192))[0], expected(model, tensor(192, 192))[0]
        assert len(wanted) < model.max_detections_per_image
        assert_same_detections(found, wanted, least=1)
    finally:
        model.head.bbox_pred.bias.data.copy_(weight)


def test_nothing_found_is_a_count_of_zero(model):
    threshold, model.test_score_thresh = model.test_score_thresh, 0.9999
    try:
        assert len(run(model, tensor(64, 64))[0]) == 0
    finally:
        model.test_score_thresh = threshold


def test_a_bgr_model_takes_rgb(model):
    rgb = tensor(96, 96)
    wanted = expected(model, rgb.flip(0))[0]
    model.input_format = "BGR"
    try:
        assert_same_detections(run(model, rgb)[0], wanted)
    finally:
        model.input_format = "RGB"


def test_other_models_and_modes_are_refused():
    with pytest.raises(ValueError, match="a Linear"):
        exportable(torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match="eval"):
        exportable(detector().train())


def test_boxes_are_those_of_postprocessing(model):
    """Scaling to the file's size comes after clipping: both orders agree."""
    image = tensor(96, 128)
    with torch.no_grad():
        wanted = model([{"image": image, "height": 300, "width": 333}])[0]["instances"]
    assert_same_detections(detector_postprocess(run(model, image)[0], 300, 333), wanted, tolerance=3e-4)
