"""RetinaNet beyond the recorded numbers: images without objects, dtypes, padding, bad input."""

import copy
import math

import pytest
import torch
from detectron2.layers import CycleBatchNormList, ShapeSpec
from detectron2.modeling import FPN, META_ARCH_REGISTRY, ResNet, RetinaNet
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch.dense_detector import permute_to_N_HWA_K
from detectron2.modeling.meta_arch.retinanet import RetinaNetHead
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn

CLASSES = 3


def build(norm: str = "", **options) -> RetinaNet:
    torch.manual_seed(0)
    stages = [
        ResNet.make_stage(BasicBlock, 1, in_channels=8, out_channels=8, stride=1, norm="FrozenBN"),
        ResNet.make_stage(BasicBlock, 1, in_channels=8, out_channels=16, stride=2, norm="FrozenBN"),
    ]
    stem = BasicStem(out_channels=8, norm="FrozenBN")
    backbone = FPN(
        ResNet(stem, stages, out_features=["res3"]),
        ["res3"],
        8,
        top_block=LastLevelP6P7(16, 8, in_feature="res3"),
    )
    generator = DefaultAnchorGenerator(
        sizes=[[16], [32], [64]], aspect_ratios=[0.5, 1.0], strides=[8, 16, 32], offset=0.5
    )
    head = RetinaNetHead(
        input_shape=list(backbone.output_shape().values()),
        num_classes=CLASSES,
        num_anchors=2,
        conv_dims=[8],
        norm=norm,
    )
    return RetinaNet(
        backbone=backbone,
        head=head,
        head_in_features=None,
        anchor_generator=generator,
        box2box_transform=Box2BoxTransform((1.0, 1.0, 1.0, 1.0)),
        anchor_matcher=Matcher([0.4, 0.5], [0, -1, 1], allow_low_quality_matches=True),
        num_classes=CLASSES,
        pixel_mean=[100.0, 110.0, 120.0],
        pixel_std=[50.0, 50.0, 50.0],
        **options,
    )


def item(boxes: list[list[float]], size: tuple[int, int] = (48, 64), seed: int = 0) -> dict:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator)
    truth = Instances(size, gt_boxes=Boxes(boxes), gt_classes=torch.arange(len(boxes)) % CLASSES)
    return {"image": image, "instances": truth}


def losses_of(model: RetinaNet, items: list[dict]) -> dict[str, torch.Tensor]:
    with EventStorage():
        return model.train()(items)


@pytest.mark.parametrize("loss_type", ["smooth_l1", "giou"])
@pytest.mark.parametrize("boxes", [[], [[4, 4, 30, 30]]], ids=["no boxes", "one box"])
def test_every_parameter_gets_a_gradient(loss_type, boxes):
    model = build(box_reg_loss_type=loss_type)
    losses = losses_of(model, [item([]), item(boxes, size=(40, 40))])
    assert set(losses) == {"loss_cls", "loss_box_reg"}
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert (losses["loss_box_reg"].item() == 0) == (not boxes)
    sum(losses.values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_labels_equal_the_loop():
    model = build()
    anchors = [Boxes([[0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 4.5]]), Boxes([[50, 50, 60, 60]])]
    truth = Instances((64, 64), gt_boxes=Boxes([[0, 0, 10, 10]]), gt_classes=torch.tensor([2]))
    nothing = Instances((64, 64), gt_boxes=Boxes([]), gt_classes=torch.zeros(0, dtype=torch.int64))
    labels, boxes = model.label_anchors(anchors, [truth, nothing])
    # IoU of 1, 0.8, 0.45 (between the thresholds) and 0.
    assert labels[0].tolist() == [2, 2, -1, CLASSES]
    assert labels[1].tolist() == [CLASSES] * 4
    assert boxes[0][:2].tolist() == [[0, 0, 10, 10]] * 2 and boxes[1].shape == (4, 4)


def test_normalizer_is_a_running_mean_outside_the_state_dict():
    model = build()
    with EventStorage() as storage:
        first = model.train()([item([[4, 4, 30, 30]])])
        positives = storage.latest()["num_pos_anchors"][0]
    assert positives >= 1
    assert model.loss_normalizer == pytest.approx(90 + 0.1 * positives)
    assert isinstance(model.loss_normalizer, float)
    assert "loss_normalizer" not in model.state_dict() and "pixel_mean" not in model.state_dict()

    model.loss_normalizer = 1000.0
    second = losses_of(model, [item([[4, 4, 30, 30]])])
    ratio = (90 + 0.1 * positives) / (900 + 0.1 * positives)
    for name, loss in first.items():
        assert second[name].item() == pytest.approx(loss.item() * ratio, rel=1e-5)
    losses_of(model, [item([])])
    assert model.loss_normalizer == pytest.approx(0.9 * (900 + 0.1 * positives) + 0.1)


def test_detections_do_not_depend_on_the_rest_of_the_batch():
    model = build(test_score_thresh=0.0, max_detections_per_image=20).eval()
    first, second = item([], seed=1), item([], seed=2)
    with torch.no_grad():
        together = model([first, second])
        alone = [model([first])[0], model([second])[0]]
    for a, b in zip(together, alone):
        assert len(a["instances"]) == 20
        assert torch.equal(a["instances"].pred_classes, b["instances"].pred_classes)
        torch.testing.assert_close(a["instances"].pred_boxes.tensor, b["instances"].pred_boxes.tensor)


def test_detections_have_the_size_asked_for():
    model = build(test_score_thresh=0.0).eval()
    asked = item([]) | {"height": 480, "width": 640}
    with torch.no_grad():
        small, large = model([item([])])[0]["instances"], model([asked])[0]["instances"]
    assert small.image_size == (48, 64) and large.image_size == (480, 640)
    torch.testing.assert_close(large.pred_boxes.tensor, small.pred_boxes.tensor * 10, rtol=1e-4, atol=1e-3)
    assert (small.scores.diff() <= 0).all()


def test_a_threshold_above_all_scores_gives_no_detections():
    with torch.no_grad():
        (result,) = build(test_score_thresh=0.99).eval()([item([])])
    assert len(result["instances"]) == 0 and result["instances"].has("pred_classes")


def test_padding_is_zero_after_normalisation():
    images = build().preprocess_image([item([], size=(20, 20)), item([], size=(40, 24))])
    assert images.tensor.shape == (2, 3, 40, 24)
    assert images.image_sizes == [(20, 20), (40, 24)]
    assert torch.count_nonzero(images.tensor[0, :, 20:]) == torch.count_nonzero(images.tensor[0, :, :, 20:]) == 0


def test_mixed_precision():
    model = build()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = losses_of(model, [item([[4, 4, 30, 30]])])
        (result,) = model.eval()([item([])])
    assert all(torch.isfinite(loss) and loss.dtype == torch.float32 for loss in losses.values())
    sum(losses.values()).backward()
    assert result["instances"].pred_boxes.tensor.dtype == torch.float32


def test_overfits_one_image():
    model = build(test_score_thresh=0.3)
    model.loss_normalizer = 4.0
    target = item([[8, 8, 24, 24], [30, 10, 60, 40]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(150):
        loss = sum(losses_of(model, [target]).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        (result,) = model.eval()([target])
    found, truth = result["instances"][:2], target["instances"]
    order = found.pred_classes.argsort()
    assert found.pred_classes[order].tolist() == truth.gt_classes.tolist()
    torch.testing.assert_close(found.pred_boxes.tensor[order], truth.gt_boxes.tensor, rtol=0, atol=3.0)


def test_head_starts_at_its_prior():
    shapes = [ShapeSpec(channels=8)] * 2
    head = RetinaNetHead(input_shape=shapes, num_classes=3, num_anchors=2, conv_dims=[8, 8], prior_prob=0.2)
    logits, deltas = head([torch.zeros(1, 8, 4, 4), torch.zeros(1, 8, 2, 2)])
    assert [tuple(x.shape) for x in logits] == [(1, 6, 4, 4), (1, 6, 2, 2)]
    assert [tuple(x.shape) for x in deltas] == [(1, 8, 4, 4), (1, 8, 2, 2)]
    assert all(math.isclose(p, 0.2, rel_tol=1e-5) for x in logits for p in x.sigmoid().flatten().tolist())
    with pytest.raises(AssertionError):
        head([torch.zeros(1, 8, 4, 4)])


def test_batch_norm_in_the_head_keeps_statistics_for_each_level():
    model = build(norm="BN")
    assert sum(isinstance(module, CycleBatchNormList) for module in model.head.modules()) == 2
    keys = [key for key in model.state_dict() if key.startswith("head.cls_subnet.1.")]
    expected = ["weight", "bias"] + [
        f"{i}.{part}" for i in range(3) for part in ("running_mean", "running_var", "num_batches_tracked")
    ]
    assert keys == [f"head.cls_subnet.1.{name}" for name in expected]
    losses_of(model, [item([]), item([])])
    means = [bn.running_mean for bn in model.head.cls_subnet[1]]
    assert not torch.equal(means[0], means[1])


def test_permute_keeps_the_order_of_the_anchors():
    n, a, k, h, w = 2, 3, 4, 2, 5
    predictions = torch.arange(n * a * k * h * w, dtype=torch.float32).reshape(n, a * k, h, w)
    flat = permute_to_N_HWA_K(predictions, k)
    assert flat.shape == (n, h * w * a, k)
    for row in range(h):
        for column in range(w):
            for anchor in range(a):
                position = (row * w + column) * a + anchor
                expected = predictions[1, anchor * k : (anchor + 1) * k, row, column]
                assert torch.equal(flat[1, position], expected)


@pytest.mark.subset
def test_bad_input():
    with pytest.raises(ValueError, match=r"instances.*image.*DatasetMapper"):
        build().train()([{"image": torch.zeros(3, 32, 32)}])
    with pytest.raises(NotImplementedError, match="vis_period=5"):
        build(vis_period=5)


def test_copies_and_the_registry():
    assert META_ARCH_REGISTRY.get("RetinaNet") is RetinaNet
    model = build(test_score_thresh=0.0).eval()
    twin = copy.deepcopy(model)
    nn.init.zeros_(model.head.cls_score.weight)
    with torch.no_grad():
        ours, other = model([item([])])[0]["instances"], twin([item([])])[0]["instances"]
    assert len(ours.scores.unique()) < len(other.scores.unique())
