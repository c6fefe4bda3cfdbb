"""A detector that looks at images in several views and gives one list of boxes each."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.structures import Boxes, Instances

from loradet.views.found import Found, window_box
from loradet.views.mapper import VIEWS, View
from loradet.views.merging import merge
from loradet.views.plan import Views

Detector = Callable[[list[dict[str, Any]]], list[dict[str, Instances]]]

# Pixels of the model's input that a box may end short of a border that cuts its object.
MARGIN = 3.0


class ViewDetector:
    """Takes samples of `ViewMapper`, returns what a Detectron2 model returns: boxes in pixels of the image as given.

    Args:
        detector: takes Detectron2's list of dicts with `image`, `height` and `width`, returns dicts with `instances`:
            a model in eval mode, an `ExportedDetector`, or a function.
        views: how boxes are merged.
        batch_size: views of one size at a time, of one image or of several; no result depends on it.
    """

    def __init__(self, detector: Detector, views: Views, batch_size: int = 1):
        self.detector = detector
        self.views = views
        self.batch_size = batch_size

    def __call__(self, batched_inputs: Sequence[dict[str, Any]]) -> list[dict[str, Instances]]:
        """
        Args:
            batched_inputs: samples of a `ViewMapper`.

        Returns:
            A dict per image, whose `instances` hold `pred_boxes`, `scores` and `pred_classes` by falling score, on the
            CPU; what else a detector gives is left out.
        """
        found: list[list[Instances]] = [[] for _ in batched_inputs]
        places = [(number, place) for number, item in enumerate(batched_inputs) for place in range(len(item[VIEWS]))]
        results = dict(self._detect(batched_inputs, places))
        for number, place in places:
            found[number].append(results[number, place])
        return [{"instances": self._merged(item, one)} for item, one in zip(batched_inputs, found)]

    def _detect(
        self, items: Sequence[dict[str, Any]], places: Sequence[tuple[int, int]]
    ) -> Iterator[tuple[tuple[int, int], Instances]]:
        """What is found in each view, by the number of the image and that of the view; in pixels of the view."""
        waiting: dict[torch.Size, list[tuple[int, int]]] = {}
        for place in places:
            batch = waiting.setdefault(items[place[0]][VIEWS][place[1]].image.shape, [])
            batch.append(place)
            if len(batch) == self.batch_size:
                yield from self._detect_batch(items, batch)
                batch.clear()
        for batch in waiting.values():
            if batch:
                yield from self._detect_batch(items, batch)

    def _detect_batch(
        self, items: Sequence[dict[str, Any]], places: Sequence[tuple[int, int]]
    ) -> Iterator[tuple[tuple[int, int], Instances]]:
        inputs = [_input(items[number], items[number][VIEWS][place]) for number, place in places]
        for place, result in zip(list(places), self.detector(inputs)):
            yield place, result["instances"].to("cpu")

    def _merged(self, item: dict[str, Any], results: Sequence[Instances]) -> Instances:
        size = item["height"], item["width"]
        columns = merge(_found(item[VIEWS], results, size), self.views.merge, self.views.iou)
        boxes, scores, classes = (torch.from_numpy(column) for column in columns)
        return Instances(
            size, pred_boxes=Boxes(boxes.float()), scores=scores.to(results[0].scores.dtype), pred_classes=classes
        )


def _input(item: dict[str, Any], view: View) -> dict[str, Any]:
    rest = {key: value for key, value in item.items() if key not in (VIEWS, "image")}
    return {**rest, "image": view.image, "height": view.window.height, "width": view.window.width}


def _found(views: Sequence[View], results: Sequence[Instances], size: tuple[int, int]) -> Found:
    counts = [len(one) for one in results]
    boxes = [_in_image(view, one.pred_boxes.tensor.double().numpy()) for view, one in zip(views, results)]
    return Found(
        boxes=np.concatenate(boxes),
        scores=np.concatenate([one.scores.double().numpy() for one in results]),
        classes=np.concatenate([one.pred_classes.long().numpy() for one in results]),
        views=np.repeat(np.arange(len(views)), counts),
        windows=np.array([window_box(view.window) for view in views], np.float64),
        margins=np.array([MARGIN * max(1.0, view.window.width / view.image.shape[-1]) for view in views]),
        size=size,
    )


def _in_image(view: View, boxes: np.ndarray) -> np.ndarray:
    """Boxes (N, 4) in pixels of a view as those of the image."""
    if view.flipped:
        boxes = boxes[:, [2, 1, 0, 3]] * np.array([-1, 1, -1, 1]) + np.array([view.window.width, 0] * 2)
    return boxes + np.array([view.window.left, view.window.top] * 2)
