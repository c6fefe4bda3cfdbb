"""Painted boxes and contact sheets."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from loradet.visualization.painting import (
    LabelledBoxes,
    Panel,
    class_colors,
    contact_sheet,
    enlarge,
    paint_boxes,
    paint_pair,
    save_png,
)

NAMES = ["ship", "aircraft", "schön"]


def blank(height: int = 128, width: int = 160) -> np.ndarray:
    return np.full((height, width, 3), 90, np.uint8)


def labelled(count: int = 1, scores: bool = True) -> LabelledBoxes:
    boxes = [[20 + 8 * i, 40, 60 + 8 * i, 90] for i in range(count)]
    return LabelledBoxes(boxes, np.arange(count) % 3, np.linspace(0.4, 0.9, count) if scores else None)


def has(image: np.ndarray, color: tuple[int, int, int]) -> bool:
    return bool((image == np.array(color)).all(axis=2).any())


def test_a_box_is_drawn_along_its_edges_in_its_class_colour():
    image = blank()
    painted = paint_boxes(image, LabelledBoxes([[20, 40, 60, 90]], [1], [0.87]), NAMES)
    color = class_colors(3)[1]
    for y, x in ((60, 20), (60, 60), (90, 40)):
        assert tuple(painted[y, x]) == color
    assert (painted[60:85, 25:55] == 90).all()  # its inside stays
    assert (image == 90).all()
    assert painted.shape == image.shape


def test_no_boxes_change_nothing():
    image = blank()
    assert (paint_boxes(image, LabelledBoxes([], []), NAMES) == image).all()


def test_scores_make_a_difference():
    with_score, without = (paint_boxes(blank(), labelled(scores=scores), NAMES) for scores in (True, False))
    assert (with_score != without).any()


def test_best_scored_box_lies_on_top():
    boxes = [[20, 40, 60, 90], [20, 40, 60, 90]]
    for scores in ([0.9, 0.4], [0.4, 0.9]):
        painted = paint_boxes(blank(), LabelledBoxes(boxes, [0, 1], scores), NAMES)
        assert tuple(painted[80, 20]) == class_colors(2)[int(np.argmax(scores))]


def test_colours_do_not_depend_on_how_many_there_are():
    assert class_colors(80)[:6] == class_colors(6)
    assert len(set(class_colors(80))) == 80


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(-1e12, 1e12) | st.sampled_from([np.nan, np.inf, -np.inf]), min_size=4, max_size=4),
    st.integers(1, 40),
    st.integers(1, 40),
)
def test_any_box_on_any_image_is_painted(box, height, width):
    painted = paint_boxes(blank(height, width), LabelledBoxes([box], [2], [0.5]), NAMES)
    assert painted.shape == (height, width, 3)


def test_enlarging_moves_the_boxes_along():
    image, boxes = enlarge(blank(50, 30), LabelledBoxes([[3, 5, 9, 25]], [0]), 3.0)
    assert image.shape == (150, 90, 3)
    assert boxes.boxes.tolist() == [[9, 15, 27, 75]]


def test_a_small_pair_is_enlarged():
    pair = paint_pair(Panel(blank(64, 64), "x", labelled(), labelled(scores=False)), NAMES)
    assert pair.shape[0] >= 400
    assert pair.shape[1] > 2 * pair.shape[0]
    alone = paint_pair(Panel(blank(500, 600), "x", labelled()), NAMES)
    assert alone.shape == (500, 600, 3)


@pytest.mark.parametrize("truth", [True, False])
@pytest.mark.parametrize("count", [1, 3, 8])
def test_a_sheet_shows_every_panel(count, truth):
    shapes = [(128, 128), (800, 300), (96, 240)]
    panels = [
        Panel(blank(*shapes[i % 3]), f"image {i}", labelled(2), labelled(3, scores=False) if truth else None)
        for i in range(count)
    ]
    sheet = contact_sheet(panels, NAMES, heading="a run", tile=160)
    assert sheet.dtype == np.uint8
    assert sheet.ndim == 3
    rows = (count + 1) // 2
    assert rows * 160 < sheet.shape[0] < rows * 200 + 60
    halves = 2 if truth else 1
    assert min(count, 2) * halves * 160 <= sheet.shape[1] < min(count, 2) * (halves * 160 + 30) + 10
    legend = sheet[-22:]
    assert has(legend, class_colors(3)[0])
    assert has(legend, class_colors(3)[1])
    assert has(legend, class_colors(3)[2]) == truth  # the third class is in the ground truth alone


def test_a_sheet_of_wide_images_is_not_padded_to_squares():
    wide = contact_sheet([Panel(blank(100, 400), "x", labelled())], NAMES, tile=200)
    assert wide.shape[0] < 110


def test_a_sheet_needs_images():
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([], NAMES)


def test_files_keep_the_colours(tmp_path):
    image = blank()
    image[:, :80] = (250, 20, 3)
    path = save_png(tmp_path / "new" / "a.png", image)
    assert (np.asarray(Image.open(path)) == image).all()
    assert [file.name for file in path.parent.iterdir()] == ["a.png"]


@pytest.mark.parametrize("image", [blank().astype(np.float32), blank()[..., 0], blank()[..., :2]])
def test_other_arrays_are_refused(tmp_path, image):
    with pytest.raises(ValueError, match="RGB uint8"):
        paint_boxes(image, labelled(), NAMES)
    with pytest.raises(ValueError, match="RGB uint8"):
        save_png(tmp_path / "a.png", image)


def test_boxes_and_classes_must_agree_in_number():
    with pytest.raises(ValueError, match="differ in number"):
        LabelledBoxes([[0, 0, 1, 1]], [0, 1])
