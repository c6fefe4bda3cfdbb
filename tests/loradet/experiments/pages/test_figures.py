"""Files of plots."""

import io

import numpy as np
import pytest

from loradet.experiments.pages.figures import drawing_style, finish, new_figure


def drawn():
    figure, grid = new_figure(3, 2)
    grid[0, 0].imshow(np.arange(12.0).reshape(3, 4), aspect="auto")
    grid[0, 0].set_xlabel("images")
    return figure


@pytest.mark.parametrize("is_narrow", [False, True])
def test_they_are_those_that_savefig_writes(is_narrow):
    with drawing_style():
        plot, figure, files = finish(drawn(), "name", "caption", is_narrow=is_narrow), drawn(), {}
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
            file = io.BytesIO()
            figure.savefig(file, format=kind, dpi=150, metadata=metadata)
            files[kind] = file.getvalue()
    assert plot.svg == files["svg"]
    assert plot.png == (b"" if is_narrow else files["png"])
    assert (plot.width, plot.height) == (288, 192)
