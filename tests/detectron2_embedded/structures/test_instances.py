"""Instances: fields of one length."""

import copy
import pickle

import pytest
import torch
from detectron2.structures import Boxes, Instances


def three() -> Instances:
    return Instances(
        (20, 30),
        pred_boxes=Boxes([[i, i, i + 5, i + 5] for i in range(3)]),
        scores=torch.tensor([0.9, 0.8, 0.7]),
        names=["a", "b", "c"],
    )


def test_fields_are_attributes():
    instances = three()
    instances.pred_classes = torch.tensor([2, 1, 0])
    assert instances.has("pred_classes") and instances.get("pred_classes") is instances.pred_classes
    assert list(instances.get_fields()) == ["pred_boxes", "scores", "names", "pred_classes"]
    instances.remove("scores")
    assert not instances.has("scores")
    with pytest.raises(AttributeError, match="'scores'"):
        _ = instances.scores


@pytest.mark.subset
def test_what_is_wrong_with_a_field_is_said():
    instances = three()
    with pytest.raises(AttributeError, match="'nothing'; there are: pred_boxes, scores, names"):
        _ = instances.nothing
    with pytest.raises(AssertionError, match=r"'bad' has length 2.*have 3"):
        instances.bad = [1, 2]
    with pytest.raises(AssertionError, match="image size"):
        Instances.cat([three(), Instances((1, 1), **three().get_fields())])


def test_a_field_of_another_length_is_refused():
    instances = three()
    with pytest.raises(AssertionError, match=r"length 2 .*3|length 2, .*3"):
        instances.bad = [1, 2]
    assert not instances.has("bad")


def test_length_needs_a_field():
    assert len(three()) == 3
    with pytest.raises(NotImplementedError):
        len(Instances((4, 4)))
    with pytest.raises(NotImplementedError):
        iter(three())


def test_indexing_applies_to_every_field():
    for item, kept in ((1, [1]), (-1, [2]), (slice(0, 2), [0, 1])):
        part = three()[item]
        assert part.image_size == (20, 30)
        assert part.pred_boxes.tensor[:, 0].tolist() == kept
        assert part.names == ["abc"[i] for i in kept]
    mask = torch.tensor([True, False, True])
    picked = Instances((20, 30), scores=three().scores)[mask]
    assert picked.scores.tolist() == pytest.approx([0.9, 0.7])
    for outside in (3, -4):
        with pytest.raises(IndexError):
            three()[outside]


def test_cat_undoes_splitting():
    instances = three()
    joined = Instances.cat([instances[0:1], instances[1:3]])
    assert torch.equal(joined.pred_boxes.tensor, instances.pred_boxes.tensor)
    assert torch.equal(joined.scores, instances.scores)
    assert joined.names == instances.names and joined.image_size == instances.image_size


def test_cat_refuses_what_does_not_fit():
    with pytest.raises(AssertionError):
        Instances.cat([])
    with pytest.raises(AssertionError):
        Instances.cat([three(), Instances((1, 1), **three().get_fields())])
    with pytest.raises(ValueError, match="tuple"):
        Instances.cat([Instances((1, 1), names=("a",))] * 2)


def test_to_moves_what_can_move():
    moved = three().to("meta")
    assert moved.pred_boxes.device.type == moved.scores.device.type == "meta"
    assert moved.names == ["a", "b", "c"]


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_are_equal(copied):
    twin = copied(three())
    assert twin.image_size == (20, 30) and twin.names == ["a", "b", "c"]
    assert torch.equal(twin.pred_boxes.tensor, three().pred_boxes.tensor)


def test_repr_names_size_and_fields():
    text = repr(three())
    assert "num_instances=3" in text and "image_height=20" in text and "scores" in text
