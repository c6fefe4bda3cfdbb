"""Matching, losses, category ids and padding, against brute force."""

import itertools
import json
import socket
from pathlib import Path

import pytest
import torch
import torchvision
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from helpers.detr_parts import TINY, criterion, image, tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import distributed, multiprocessing

from loradet.detectors.detr import (
    CategoryIds,
    DetrTargets,
    HungarianMatcher,
    NonFiniteCostError,
    PositionEmbeddingSine,
    SetCriterion,
    coco_categories,
    generalized_box_iou,
    padding_mask,
)
from loradet.detectors.detr import matcher as matching

numbers = st.integers(0, 10_000)


def random_boxes(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """(centre x, centre y, width, height), inside the image."""
    low, high = torch.sort(torch.rand(*shape, 2, 2, generator=generator), dim=-2).values.unbind(-2)
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def case(seed: int, layers: int, queries: int, objects: list[int], classes: int = 3):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(layers, len(objects), queries, classes + 1, generator=generator)
    boxes = random_boxes((layers, len(objects), queries), generator)
    truth = [
        DetrTargets(torch.randint(classes, (n,), generator=generator), random_boxes((n,), generator)) for n in objects
    ]
    return logits, boxes, truth


@settings(max_examples=25, deadline=None)
@given(numbers, st.integers(1, 4), st.lists(st.integers(0, 4), min_size=1, max_size=3))
def test_no_assignment_is_cheaper(seed, queries, objects):
    logits, boxes, truth = case(seed, 2, queries, objects)
    matcher = HungarianMatcher(cost_class=1.5, cost_bbox=4.0, cost_giou=0.5)
    costs, pairs = matcher.costs(logits, boxes, truth), matcher(logits, boxes, truth)
    for count, cost, (found, wanted) in zip(objects, costs, pairs):
        assert cost.shape == (2, queries, count)
        assert found.shape == wanted.shape == (2, min(queries, count))
        for layer in range(2):
            assert found[layer].tolist() == sorted(set(found[layer].tolist()))
            assert len(set(wanted[layer].tolist())) == min(queries, count)
            least = min(brute_force_costs(cost[layer]))
            assert cost[layer][found[layer], wanted[layer]].sum().item() == pytest.approx(least, abs=1e-5)


def brute_force_costs(cost: torch.Tensor):
    cost = cost if len(cost) >= cost.shape[1] else cost.T
    for rows in itertools.permutations(range(len(cost)), cost.shape[1]):
        yield sum(cost[row, column].item() for column, row in enumerate(rows))


@settings(max_examples=25, deadline=None)
@given(numbers)
def test_generalized_iou_is_torchvisions(seed):
    generator = torch.Generator().manual_seed(seed)
    a, b = (
        torchvision.ops.box_convert(random_boxes((n,), generator), "cxcywh", "xyxy").double().requires_grad_()
        for n in (4, 5)
    )
    found = generalized_box_iou(a[:, None], b[None])
    torch.testing.assert_close(found, torchvision.ops.generalized_box_iou(a, b))
    assert torch.allclose(generalized_box_iou(a, a), torch.ones(4, dtype=torch.double))


def test_empty_boxes_give_neither_nan_nor_huge_gradients():
    point = torch.tensor([[0.5, 0.5, 0.5, 0.5]], requires_grad=True)
    for other in ([0.5, 0.5, 0.5, 0.5], [0.1, 0.1, 0.9, 0.9], [0.7, 0.7, 0.7, 0.9]):
        value = generalized_box_iou(point, torch.tensor([other]))
        (gradient,) = torch.autograd.grad(value.sum(), point)
        assert value.isfinite().all() and gradient.isfinite().all()
        assert gradient.abs().max() < 1e3


def test_more_objects_than_queries():
    logits, boxes, truth = case(0, 6, 300, [1000, 0, 7], classes=5)
    own = criterion(TINY)
    pairs = own.matcher(logits, boxes, truth)
    assert [tuple(query.shape) for query, _ in pairs] == [(6, 300), (6, 0), (6, 7)]
    found = own(logits.requires_grad_(), boxes.requires_grad_(), truth)
    sum(found.losses.values()).backward()
    assert all(value.isfinite() for value in found.losses.values())
    # Objects that stay without a query count in the divisor.
    expected = sum(
        (boxes[-1, i][query[-1]] - truth[i].boxes[wanted[-1]]).abs().sum() for i, (query, wanted) in enumerate(pairs)
    )
    assert found.losses["loss_bbox"].item() == pytest.approx(expected.item() / 1007, rel=1e-5)


def test_weights_and_no_object_weight():
    logits, boxes, truth = case(3, 1, 5, [2, 0])
    plain = criterion(TINY)
    weights = {"weight_class": 0.5, "weight_bbox": 3.0, "weight_giou": 7.0}
    own = criterion({**TINY, "eos_coef": 0.4}, **weights)
    found = own(logits, boxes, truth)
    assert own.weighted(found.losses) == {
        name: found.losses[name] * weight
        for name, weight in zip(("loss_ce", "loss_bbox", "loss_giou"), weights.values())
    }
    pairs = own.matcher(logits, boxes, truth)
    wanted = torch.full((2, 5), 3)
    wanted[0, pairs[0][0][0]] = truth[0].labels[pairs[0][1][0]]
    weight = torch.where(wanted == 3, 0.4, 1.0)
    cross_entropy = -logits[0].log_softmax(-1).gather(-1, wanted[..., None])[..., 0]
    expected = (weight * cross_entropy).sum() / weight.sum()
    assert found.losses["loss_ce"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert plain(logits, boxes, truth).losses["loss_ce"] != found.losses["loss_ce"]


def test_mixed_precision_leaves_matching_and_losses_in_float32():
    logits, boxes, truth = case(5, 2, 8, [3, 1])
    logits, boxes = logits.bfloat16(), boxes.bfloat16()
    own = criterion(TINY)
    expected = own(logits.float(), boxes.float(), truth)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = own(logits, boxes, truth)
        costs = own.matcher.costs(logits, boxes, truth)
    assert all(cost.dtype == torch.float32 for cost in costs)
    for name, value in found.losses.items():
        assert value.dtype == torch.float32
        assert value == expected.losses[name]
    assert found.metrics == expected.metrics


@pytest.mark.parametrize("spoilt", ["predicted logits", "predicted boxes", "boxes of the ground truth"])
def test_nan_is_an_error_that_says_where(spoilt):
    logits, boxes, truth = case(5, 2, 8, [3, 2])
    tensors = {
        "predicted logits": logits[1, 1],
        "predicted boxes": boxes[1, 1],
        "boxes of the ground truth": truth[1].boxes,
    }
    tensors[spoilt][0] = float("nan")
    layer = 0 if spoilt == "boxes of the ground truth" else 1
    message = rf"in the {spoilt} of image 1 .*layer {layer}\).*clip_grad"
    with pytest.raises(NonFiniteCostError, match=message):
        HungarianMatcher()(logits, boxes, truth)
    with pytest.raises(NonFiniteCostError, match=message):
        criterion(TINY)(logits, boxes, truth)


@pytest.mark.parametrize("eos_coef", [0.0, -0.1])
def test_without_a_weight_of_no_object_a_batch_without_objects_would_have_no_loss(eos_coef):
    with pytest.raises(ValueError, match=f"eos_coef={eos_coef}: expected more than 0"):
        SetCriterion(matcher=HungarianMatcher(), eos_coef=eos_coef)


def test_a_matcher_without_cost_is_an_error():
    with pytest.raises(ValueError, match="all 0"):
        HungarianMatcher(cost_class=0, cost_bbox=0, cost_giou=0)


def test_the_three_ids_of_a_category_are_told_apart():
    ids = CategoryIds(dataset_ids=[3, 7, 90], logits=[3, 7, 90], num_logits=91)
    assert len(ids) == 3
    for contiguous, number in enumerate([3, 7, 90]):
        assert ids.contiguous_of_dataset(number) == contiguous
        assert ids.dataset_of_contiguous(contiguous) == number
        assert ids.logit_of_contiguous(contiguous) == number
        assert ids.contiguous_of_logit(number) == contiguous
    assert ids.head_rows == (3, 7, 90, 91)
    packed = CategoryIds(dataset_ids=[3, 7, 90], logits=[2, 0, 1], num_logits=3)
    assert packed.logit_of_contiguous(packed.contiguous_of_dataset(90)) == 1
    assert packed.dataset_of_contiguous(packed.contiguous_of_logit(2)) == 3
    for call in (
        ids.contiguous_of_dataset,
        ids.contiguous_of_logit,
        ids.dataset_of_contiguous,
        ids.logit_of_contiguous,
    ):
        with pytest.raises(ValueError, match="12"):
            call(12)


def test_a_mapping_is_of_the_data_s_classes_in_their_order():
    ids = CategoryIds(dataset_ids=[3, 7, 90], logits=[3, 7, 90], num_logits=91)
    ids.check([3, 7, 90], ["a", "b", "c"])
    with pytest.raises(ValueError, match="Class 0 of the data is 'id 7', but the mapping of categories has 'id 3'"):
        ids.check([7, 3, 90], ["b", "a", "c"])
    with pytest.raises(ValueError, match="maps 3 classes, but the data have 2"):
        ids.check([3, 7], ["a", "b"])
    named = CategoryIds(dataset_ids=[1, 2], logits=[0, 1], num_logits=2, names=["a", "b"])
    with pytest.raises(ValueError, match="Class 0 of the data is 'b'"):
        named.check([1, 2], ["b", "a"])
    coco = coco_categories()
    coco.check(range(1, 81), coco.names)  # other ids, the same classes
    by_name = sorted(coco.names)
    with pytest.raises(
        ValueError, match="Class 0 of the data is 'airplane', but the mapping of categories has 'person'"
    ):
        coco.check([coco.dataset_ids[coco.names.index(name)] for name in by_name], by_name)


def test_coco_has_80_categories_on_91_logits():
    ids = coco_categories()
    assert (len(ids), ids.num_logits, ids.dataset_ids[0], ids.dataset_ids[-1]) == (80, 91, 1, 90)
    assert [ids.contiguous_of_dataset(number) for number in (3, 7, 90)] == [2, 6, 79]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([3, 7, 3], [0, 1, 2], 3), "dataset_ids has 3 twice"),
        (([3, 7, 90], [0, 1, 1], 3), "logits has 1 twice"),
        (([3, 7], [0, 1, 2], 3), "2 dataset_ids, but 3 logits"),
        (([3, 7, 90], [3, 7, 90], 90), r"\[90\] are not in 0..89"),
        (([3, 7, 90], [3, 7, 90], 91, ["a"]), "1 names, but 3 logits"),
    ],
)
def test_mappings_that_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        CategoryIds(*arguments)


@settings(max_examples=50, deadline=None)
@given(st.data(), st.integers(1, 130), st.integers(1, 130), st.sampled_from([1, 4, 14, 16, 32]))
def test_padding_of_a_cell_is_that_of_its_nearest_pixel(data, height, width, stride):
    size = data.draw(st.tuples(st.integers(1, height), st.integers(1, width)))
    cells = (-(-height // stride), -(-width // stride))
    found = padding_mask([size], (height, width), cells)[0]
    for y, x in itertools.product(range(cells[0]), range(cells[1])):
        pixel = (y * height // cells[0], x * width // cells[1])
        assert found[y, x].item() == (pixel[0] >= size[0] or pixel[1] >= size[1])


def test_position_does_not_depend_on_padding():
    embed = PositionEmbeddingSine(num_pos_feats=8)
    alone = embed(torch.zeros(1, 3, 4, dtype=torch.bool))
    padded = embed(padding_mask([(3, 4), (5, 6)], (5, 6), (5, 6)))
    torch.testing.assert_close(padded[:1, :, :3, :4], alone)
    with pytest.raises(ValueError, match="num_pos_feats=7"):
        PositionEmbeddingSine(num_pos_feats=7)


def test_the_number_of_objects_is_averaged_over_processes(monkeypatch):
    logits, boxes, truth = case(2, 2, 5, [3, 0])
    own = criterion(TINY)
    alone = own(logits, boxes, truth).losses
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    for elsewhere, divisor in ((9, 6.0), (0, 1.5)):
        monkeypatch.setattr(distributed, "all_reduce", lambda row, other=elsewhere: row[0].add_(other))
        shared = own(logits, boxes, truth).losses
        for name in ("loss_bbox", "loss_giou_0"):
            assert shared[name].item() == pytest.approx(alone[name].item() * 3 / divisor, rel=1e-5)
        assert shared["loss_ce"] == alone["loss_ce"]


def test_processes_fail_together(monkeypatch):
    logits, boxes, truth = case(2, 2, 5, [3, 0])
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    sent = []
    monkeypatch.setattr(distributed, "all_reduce", lambda row: sent.append(row[1].item()))
    with pytest.raises(NonFiniteCostError, match="predicted boxes of image 0"):
        criterion(TINY)(logits, boxes * float("nan"), truth)
    assert sent == [1], "the others are told"
    monkeypatch.setattr(distributed, "all_reduce", lambda row: row[1].add_(1))
    with pytest.raises(NonFiniteCostError, match="another process"):
        criterion(TINY)(logits, boxes, truth)


@pytest.mark.slow
def test_processes_share_the_number_of_objects_and_none_may_be_without_gradient(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.start_processes(_one_process, args=(port, str(tmp_path)), nprocs=2, start_method="spawn")
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(2))
    # Three objects in one process, none in the other: 1.5 on average.
    assert first["loss_bbox"] == pytest.approx(2 * first["alone"], rel=1e-5)
    assert second["loss_bbox"] == 0
    assert first["weights"] == pytest.approx(second["weights"], rel=1e-6)


def _one_process(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    boxes = [[4, 4, 40, 40], [10, 20, 60, 30], [1, 1, 9, 50]] if rank == 0 else []
    inputs = [image(64, 64, boxes, list(range(len(boxes))))]
    model = tiny().train()
    with EventStorage():
        alone = model(inputs)["loss_bbox"].item()
        distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
        parallel = torch.nn.parallel.DistributedDataParallel(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        seen = []
        for _ in range(2):
            losses = parallel(inputs)
            seen.append(losses["loss_bbox"].item())
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
    weights = [parameter.sum().item() for parameter in model.parameters()]
    found = {"alone": alone, "loss_bbox": seen[0], "weights": weights}
    Path(folder, f"{rank}.json").write_text(json.dumps(found), encoding="utf-8")
    distributed.destroy_process_group()


@pytest.mark.parametrize(("layers", "queries", "objects"), [(1, 5, 0), (6, 100, 1), (3, 37, 23), (6, 300, 200)])
def test_distances_on_a_gpu_are_computed_to_the_same_bits(layers, queries, objects):
    """There torch.cdist is left out; on a CPU both forms can be compared."""
    generator = torch.Generator().manual_seed(layers + queries)
    boxes = torch.rand(layers, queries, 4, generator=generator)
    others = torch.rand(objects, 4, generator=generator)
    found = matching._broadcast_distances(boxes, others)
    assert torch.equal(found, matching.l1_distances(boxes, others))
    assert torch.equal(found, torch.cdist(boxes, others.expand(layers, -1, -1), p=1))
    assert found.shape == (layers, queries, objects)
