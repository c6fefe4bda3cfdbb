"""Names of any length stay inside their pictures."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from loradet.visualization.grid import Cell, grid
from loradet.visualization.painting import LabelledBoxes, Panel, class_colors, contact_sheet, legend, paint_boxes
from loradet.visualization.text import GAP, LINE, PLAIN, shorten, text_block, text_line, text_width, wrap_words

LONG = "a_class_name_that_somebody_has_made_of_a_whole_sentence_about_what_is_to_be_found"
words = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(words, st.integers(60, 400), st.sampled_from(["", ": ground truth", " 0.87"]))
def test_a_shortened_text_fits_and_keeps_both_ends(text, room, keep):
    short = shorten(text, room, PLAIN, keep=keep)
    assert text_width(short, PLAIN) <= room
    if text_width(text + keep, PLAIN) <= room:
        assert short == text + keep
        return
    if text_width("..." + keep, PLAIN) <= room:
        assert short.endswith(keep)
        short = short.removesuffix(keep)
    else:
        text += keep
    # A text may have dots of its own beside them.
    cuts = [at for at in range(len(short)) if short.startswith("...", at)]
    parts = [(short[:at], short[at + 3 :]) for at in cuts]
    assert any(text.startswith(head) and text.endswith(tail) for head, tail in parts)


@settings(max_examples=40, deadline=None)
@given(st.lists(words, max_size=12), st.integers(60, 500))
def test_wrapped_lines_fit_and_lose_no_word_that_fits(texts, room):
    lines = wrap_words(" ".join(texts), room, PLAIN)
    assert all(text_width(line, PLAIN) <= room for line in lines)
    assert " ".join(lines).split() == [shorten(word, room, PLAIN) for word in texts]


def columns_with_ink(picture: np.ndarray) -> np.ndarray:
    return np.flatnonzero((picture < 250).any(axis=(0, 2)))


def test_no_letter_touches_an_edge():
    for width in (90, 200, 331):
        for picture in (text_line(LONG, width), text_line(LONG, width, keep=": predictions"), text_block(LONG, width)):
            assert picture.shape[1] == width
            ink = columns_with_ink(picture)
            assert ink.min() + 1 >= GAP
            assert ink.max() < width - 1
    assert text_block(LONG.replace("_", " "), 200).shape[0] > 2 * LINE


def test_a_legend_of_long_names_stays_inside():
    names = [LONG, "ship", LONG[:30], LONG[20:]]
    for width in (120, 300, 700):
        picture = legend(range(4), names, width)
        assert picture.shape[1] == width
        assert columns_with_ink(picture).max() < width - 1
        for color in class_colors(4):
            assert (picture == np.array(color)).all(axis=2).any()


def test_a_label_stays_inside_its_image_with_its_score():
    image = np.full((60, 120, 3), 90, np.uint8)
    painted, short = (
        paint_boxes(image, LabelledBoxes([[60, 30, 110, 50]], [0], [0.5]), [name]) for name in (LONG, LONG[:6])
    )
    color = np.array(class_colors(1)[0])
    # The label fills its place up to the border, and no letter lies on the last column.
    assert (painted[20:28, -1] == color).all()
    assert not (painted == short).all()


def test_sheets_take_long_names():
    image = np.full((64, 64, 3), 90, np.uint8)
    found = LabelledBoxes([[10, 10, 50, 50]], [0], [0.5])
    for picture in (
        contact_sheet([Panel(image, LONG + ".png", found, found)] * 3, [LONG], heading=f"{LONG} {LONG}", tile=160),
        grid([[Cell(LONG, image, ": ground truth")] * 2], heading=LONG.replace("_", " ")),
    ):
        assert columns_with_ink(picture).max() < picture.shape[1] - 1
