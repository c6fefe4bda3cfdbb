"""Black images with rectangles of pure red, green and blue, held in memory: the class of a rectangle is its channel."""

import numpy as np
from detectron2.structures import BoxMode
from hypothesis import strategies as st

from loradet.datasets.mapper import DetectionMapper


class PaintedMapper(DetectionMapper):
    """Reads what records say is painted, in place of files."""

    scenes: dict

    def read_image(self, file_name, format):
        assert format in ("RGB", "BGR")
        return self.scenes[file_name][:, :, :: -1 if format == "BGR" else 1]


@st.composite
def scenes(draw, count=4):
    """Images by name, and their records; a rectangle is six pixels or more from the others and any size from two on."""
    images, records = {}, []
    for number in range(count):
        height, width = draw(st.integers(40, 96)), draw(st.integers(40, 96))
        image = np.zeros((height, width, 3), np.uint8)
        annotations = []
        # One in each of three strips, so that they do not meet.
        edges = np.linspace(0, width, 4).astype(int)
        for channel in draw(st.permutations(range(3)))[: draw(st.integers(0, 3))]:
            low, high = edges[channel] + 3 * (channel > 0), edges[channel + 1] - 3 * (channel < 2)
            x0 = draw(st.integers(low, high - 2))
            x1 = draw(st.integers(x0 + 2, high))
            y0 = draw(st.integers(0, height - 2))
            y1 = draw(st.integers(y0 + 2, height))
            image[y0:y1, x0:x1, channel] = 255
            box = [float(value) for value in (x0, y0, x1 - x0, y1 - y0)]
            annotations.append({"bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "category_id": int(channel), "iscrowd": 0})
        name = f"scene_{number}"
        images[name] = image
        records.append(
            {"file_name": name, "image_id": number, "height": height, "width": width, "annotations": annotations}
        )
    return images, records


def check_boxes(sample, image_format="RGB", *, keeps_colours: bool = True) -> None:
    """Each class's boxes cover exactly its channel's pixels, to a pixel, and lie inside the image with an area.

    Of colours that are kept, half of the paint is where an object ends; else half of the strongest that is left.
    """
    image = sample["image"].numpy().astype(int)[:: -1 if image_format == "BGR" else 1]
    height, width = image.shape[1:]
    boxes = sample["instances"].gt_boxes.tensor.numpy().astype(float)
    classes = sample["instances"].gt_classes.numpy()
    assert sample["instances"].image_size == (height, width)
    assert (boxes >= 0).all() and (boxes <= [width, height, width, height]).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    strength = image - image.min(axis=0)  # what is grey, as padding, has none
    # What is only a resize's faint seam, of an object that lies just outside, is no object.
    most = 255 if keeps_colours else max(strength.max(), 1)
    columns, rows = np.arange(width), np.arange(height)
    for channel in range(3):
        within, around = (np.zeros((height, width), bool) for _ in range(2))
        for x0, y0, x1, y1 in boxes[classes == channel]:
            # Pixels that lie inside by one at least, and those that are at most one away.
            within |= _cross((rows >= y0 + 1) & (rows + 1 <= y1 - 1), (columns >= x0 + 1) & (columns + 1 <= x1 - 1))
            around |= _cross((rows + 1 > y0 - 1) & (rows < y1 + 1), (columns + 1 > x0 - 1) & (columns < x1 + 1))
        seen = strength[channel] > most / 2
        assert not (within & ~seen).any(), "a box covers what is not its object"
        assert not (seen & ~around).any(), "an object reaches out of its box, or has none"


def _cross(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    return rows[:, None] & columns
