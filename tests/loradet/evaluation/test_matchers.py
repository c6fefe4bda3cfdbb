"""The compiled evaluator against pycocotools, bit for bit, and what is used where it is not to be had."""

import builtins
import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.cocoeval import Params

from loradet.evaluation.matchers import choice
from loradet.evaluation.matchers.columns import UNLIMITED, BoxColumns, Question
from loradet.evaluation.matchers.compiled import CompiledMatcher
from loradet.evaluation.matchers.reference import ReferenceMatcher

PARAMS = Params("bbox")
BOUNDS = [0, 32**2, np.nextafter(32**2, 0), np.nextafter(32**2, 1e9), 96**2, 96.0**2 + 1e-9, 1e10]


def random_columns(seed: int) -> BoxColumns:
    """Crowds, equal scores and boxes, boxes without width, areas at the bounds, images and classes without anything."""
    rng = np.random.default_rng(seed)
    images, classes = int(rng.integers(0, 7)), int(rng.integers(0, 4))
    boxes, found = (int(rng.integers(0, most)) if images and classes else 0 for most in (40, 120))
    lattice = rng.random() < 0.6
    truth_xywh = _boxes(rng, boxes, lattice)
    truth_image, truth_class = rng.integers(0, max(images, 1), boxes), rng.integers(0, max(classes, 1), boxes)
    xywh, image = _boxes(rng, found, lattice), rng.integers(0, max(images, 1), found)
    category = rng.integers(0, max(classes, 1), found)
    if boxes:
        near = rng.random(found) < 0.8
        source = rng.integers(0, boxes, found)
        moved = truth_xywh[source] + (4 * rng.integers(-1, 2, (found, 4)) if lattice else rng.normal(0, 3, (found, 4)))
        xywh[near] = np.where(rng.random((found, 1)) < 0.2, truth_xywh[source], moved)[near]
        image[near], category[near] = truth_image[source][near], truth_class[source][near]
    # A width below zero makes an area below zero, which is outside every range.
    areas = truth_xywh[:, 2] * truth_xywh[:, 3]
    scores = rng.integers(0, 12, found) / 11 if rng.random() < 0.6 else rng.normal(0.5, 1, found)
    return BoxColumns(
        images=images,
        classes=classes,
        truth_image=truth_image,
        truth_class=truth_class,
        truth_xywh=truth_xywh,
        truth_area=np.where(rng.random(boxes) < 0.3, rng.choice(BOUNDS, boxes), areas),
        truth_crowd=rng.random(boxes) < 0.2,
        image=image,
        category=category,
        xywh=xywh,
        scores=scores,
    )


def _boxes(rng: np.random.Generator, count: int, lattice: bool) -> np.ndarray:
    if lattice:
        return np.concatenate([4.0 * rng.integers(0, 10, (count, 2)), 4.0 * rng.integers(1, 9, (count, 2))], axis=1)
    return np.concatenate([rng.uniform(0, 300, (count, 2)), np.exp(rng.normal(3.6, 1, (count, 2)))], axis=1)


def assert_same(ours, theirs):
    for name, expected in vars(theirs).items():
        got = getattr(ours, name)
        assert got.shape == expected.shape, name
        np.testing.assert_array_equal(got, expected, err_msg=name)


LIMITS = [(1, 10, 100), (1, 10, 100, 300), (1, 2, 5), (3,), (1, 10, UNLIMITED)]
SIZES = [PARAMS.areaRng, [(-np.inf, np.inf)], [(0, 5.5), (5.5, 100)]]


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 10**9), limits=st.sampled_from(LIMITS), areas=st.sampled_from(SIZES))
def test_both_matchers_give_the_same_bits(seed, limits, areas):
    columns, question = random_columns(seed), Question(PARAMS.iouThrs, PARAMS.recThrs, areas, limits)
    ours, theirs = CompiledMatcher(columns, question), ReferenceMatcher(columns, question)
    assert_same(ours.curves(), theirs.curves())
    for area in range(len(areas)):
        for limit in (None, 1, 2):
            assert_same(ours.outcomes(area, limit), theirs.outcomes(area, limit))
    for threshold in (0, 5, 9):
        assert_same(ours.finds(threshold), theirs.finds(threshold))
    assert_same(ours.finds(3, len(areas) - 1, 1), theirs.finds(3, len(areas) - 1, 1))


def test_a_threshold_of_one_is_reached_by_equal_boxes():
    rng = np.random.default_rng(0)
    boxes = rng.uniform(0.1, 300, (50, 4))
    columns = BoxColumns(
        images=1, classes=1, truth_image=np.zeros(50, int), truth_class=np.zeros(50, int), truth_xywh=boxes,
        truth_area=boxes[:, 2] * boxes[:, 3], truth_crowd=np.zeros(50, bool), image=np.zeros(50, int),
        category=np.zeros(50, int), xywh=boxes, scores=rng.random(50),
    )  # fmt: skip
    for kind in (CompiledMatcher, ReferenceMatcher):
        assert kind(columns, Question.of_matching((1.0,))).outcomes().found.all()


@pytest.fixture
def chosen_anew():
    choice._matcher_class.cache_clear()
    yield
    choice._matcher_class.cache_clear()


@pytest.mark.usefixtures("chosen_anew")
def test_the_compiled_one_is_taken(caplog):
    columns, question = random_columns(3), Question.of_matching((0.5,))
    assert isinstance(choice.match(columns, question), CompiledMatcher)
    assert not caplog.records


def absent(monkeypatch):
    taken = builtins.__import__

    def importing(name, *rest, **named):
        if name.startswith("loradet.evaluation.matchers.compiled"):
            raise ModuleNotFoundError("No module named 'ultrafast_pycocotools'")
        return taken(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", importing)


def of_another_version(monkeypatch):
    def refuse(*_):
        raise TypeError("missing 1 required positional argument: 'protocol'")

    monkeypatch.setattr(CompiledMatcher, "__init__", refuse)


def of_other_numbers(monkeypatch):
    given = CompiledMatcher.outcomes

    def one_more(self, *words):
        found = given(self, *words)
        found.found[:] = True
        return found

    monkeypatch.setattr(CompiledMatcher, "outcomes", one_more)


@pytest.mark.usefixtures("chosen_anew")
@pytest.mark.parametrize("spoil", [absent, of_another_version, of_other_numbers])
def test_without_it_pycocotools_computes_and_a_warning_says_so_once(monkeypatch, caplog, spoil):
    columns, question = random_columns(3), Question(PARAMS.iouThrs, PARAMS.recThrs, PARAMS.areaRng, (1, 10, 100))
    expected = CompiledMatcher(columns, question).curves()
    spoil(monkeypatch)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            found = choice.match(columns, question)
            assert isinstance(found, ReferenceMatcher)
            assert_same(found.curves(), expected)
    assert len(caplog.records) == 1
    assert "pip install" in caplog.text and "pycocotools computes the metrics" in caplog.text
