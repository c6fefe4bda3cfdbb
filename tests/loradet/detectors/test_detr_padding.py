"""Batches of DETR that are padded to a fixed size."""

import pytest
import torch
from detectron2.utils.events import EventStorage
from helpers.detr_parts import Patches, image, tiny
from hypothesis import given
from hypothesis import strategies as st

from loradet.detectors.detr.features import fixed_batch_size, padding_mask


def batch_of(model, *sizes):
    return model.preprocess_image([image(*size, seed=number) for number, size in enumerate(sizes)])


class Strict(Patches):
    """Wants inputs whose sides are multiples of 32."""

    @property
    def size_divisibility(self):
        return 32


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([(64, 96)], (64, 96)),
        ([(33, 40), (64, 50)], (64, 96)),
        ([(65, 40)], (96, 64)),
        ([(96, 64), (20, 20)], (96, 64)),
        ([(96, 64), (64, 96)], (96, 96)),
        ([(64, 64)], (64, 96)),
    ],
)
def test_batches_are_padded_to_the_landscape_or_portrait_size(sizes, expected):
    model = tiny(options={"pad_to": [64, 96]})
    batch = batch_of(model, *sizes)
    assert tuple(batch.tensor.shape[-2:]) == expected
    assert [tuple(size) for size in batch.image_sizes] == sizes
    own = batch_of(tiny(), *sizes)
    for padded, plain, (height, width) in zip(batch.tensor, own.tensor, sizes):
        torch.testing.assert_close(padded[:, :height, :width], plain[:, :height, :width], rtol=0, atol=0)
        assert padded[:, height:].abs().sum() + padded[:, :, width:].abs().sum() == 0


@given(
    sizes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=4),
    pad_to=st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
def test_the_fixed_size_holds_every_image_with_sides_of_pad_to_alone(sizes, pad_to):
    height, width = pad_to
    fits = [(h <= height and w <= width, h <= width and w <= height) for h, w in sizes]
    if not all(any(ways) for ways in fits):
        with pytest.raises(ValueError, match="pad_to"):
            fixed_batch_size(sizes, pad_to, ["x"] * len(sizes))
        return
    found = fixed_batch_size(sizes, pad_to, ["x"] * len(sizes))
    if all(as_given for as_given, _ in fits):
        assert found == pad_to
    elif all(turned for _, turned in fits):
        assert found == (width, height)
    else:
        assert found == (max(pad_to), max(pad_to))


def test_an_image_that_fits_neither_way_is_named():
    model = tiny(options={"pad_to": (64, 96)}).eval()
    inputs = [image(64, 96), {**image(80, 80), "file_name": "b.jpg"}]
    with pytest.raises(ValueError, match=r"b\.jpg comes as 80x80 .*pad_to=\(64, 96\).* 64x96 or 96x64"):
        model(inputs)


@pytest.mark.parametrize("pad_to", [(64,), (64, 96, 3), (0, 64)])
def test_pad_to_is_two_sizes(pad_to):
    with pytest.raises(ValueError, match=r"expected \(height, width\)"):
        tiny(options={"pad_to": pad_to})


def test_sides_become_multiples_of_what_the_backbone_wants():
    model = tiny(backbone=Strict(), options={"pad_to": (60, 100)})
    assert tuple(batch_of(model, (60, 90)).tensor.shape[-2:]) == (64, 128)
    assert tuple(batch_of(model, (90, 60)).tensor.shape[-2:]) == (128, 64)


@pytest.mark.parametrize("size", [(32, 48), (48, 32), (64, 96)])
def test_detections_are_those_without_padding(size):
    plain, padded = tiny().eval(), tiny(options={"pad_to": (64, 96)}).eval()
    padded.load_state_dict(plain.state_dict())
    with torch.no_grad():
        (expected,), (found,) = plain([image(*size)]), padded([image(*size)])
    for name, tolerance in (("scores", 1e-5), ("pred_classes", 0)):
        torch.testing.assert_close(
            found["instances"].get(name), expected["instances"].get(name), rtol=0, atol=tolerance
        )
    boxes = [result["instances"].pred_boxes.tensor for result in (found, expected)]
    torch.testing.assert_close(*boxes, rtol=0, atol=1e-4)


def test_losses_are_those_without_padding():
    plain, padded = tiny(), tiny(options={"pad_to": (64, 96)})
    padded.load_state_dict(plain.state_dict())
    inputs = [image(32, 48, [[4, 4, 20, 20]], [1]), image(64, 80, [[8, 8, 40, 30]], [2])]
    with EventStorage():
        expected, found = plain(inputs), padded(inputs)
    assert found.keys() == expected.keys()
    for name, loss in expected.items():
        torch.testing.assert_close(found[name], loss, rtol=1e-4, atol=1e-5, msg=name)


def test_the_transformer_gets_a_mask_of_all_that_is_padded(monkeypatch):
    model = tiny(options={"pad_to": (64, 96)}).eval()
    seen = []
    forward = model.transformer.forward

    def record(features, position, queries, padding, **options):
        seen.append(padding)
        return forward(features, position, queries, padding, **options)

    monkeypatch.setattr(model.transformer, "forward", record)
    model([image(32, 48)])
    expected = torch.ones(1, 4, 6, dtype=torch.bool)
    expected[:, :2, :3] = False
    assert torch.equal(seen[0], expected)
    assert torch.equal(expected, padding_mask([(32, 48)], (64, 96), (4, 6)))
    model([image(64, 96)])
    assert seen[1] is None
