"""Images that a rule of intensity would lose are found before anything is made of them."""

import logging
import re

import numpy as np
import pytest
from helpers.deep_images import write_png, write_tiff, write_twins
from PIL import Image

from loradet.datasets.images.intensity import Intensity
from loradet.datasets.images.intensity_check import check_intensity
from loradet.errors import UserError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (48, 64), dtype=np.uint8)


def check(files, rule="auto"):
    check_intensity([str(file) for file in files], None if rule is None else Intensity.parse(rule), "train")


def thermal(folder, count=3, low=2900, high=3500):
    """16-bit images whose values fill a small part of the range, as radiometric cameras write them."""
    scenes = [RNG.integers(low, high + 1, (48, 64)).astype(np.uint16) for _ in range(count)]
    return [write_png(folder / f"{i}.png", scene) for i, scene in enumerate(scenes)]


def test_twins_lose_nothing_by_auto(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        check(write_twins(tmp_path, GREY).values())
    assert "train: 4 of 9 images have 16-bit unsigned samples; data.intensity=auto brings them into" in caplog.text
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


def test_scenes_of_few_values_lose_nothing_by_auto(tmp_path):
    check(write_twins(tmp_path, (GREY % 7 + 30).astype(np.uint8)).values())


def test_a_small_part_of_the_range_is_refused_with_what_to_write(tmp_path):
    files = thermal(tmp_path)
    Image.fromarray(GREY).save(tmp_path / "shallow.png")
    with pytest.raises(UserError) as caught:
        check([tmp_path / "shallow.png", *files])
    message = str(caught.value)
    assert f"train: 3 of 4 images have 16-bit unsigned samples, such as {files[0]}; values 2900 to 3500" in message
    assert "keeps 4 levels of 256" in message
    low, high = map(int, re.search(r"data\.intensity=\[(\d+),(\d+)\]", message).groups())
    assert 2900 < low < 2910 < 3490 < high < 3500
    assert "data.intensity=percentile:1,99" in message
    check(files, [low, high])
    check(files, "percentile:1,99")


def test_what_is_said_to_be_meant_is_a_warning(tmp_path, caplog):
    check(thermal(tmp_path), "full_range")
    assert "keeps 4 levels of 256" in caplog.text


def test_numbers_of_another_format_are_a_warning(tmp_path, caplog):
    check(write_twins(tmp_path, GREY).values(), [0, 65535])
    assert "32-bit float" in caplog.text
    assert "2 of 9 images have 8-bit unsigned samples" in caplog.text
    assert "keeps 1 level of 256" in caplog.text


@pytest.mark.parametrize("factor", [255.0, 4000.0])
def test_floats_beyond_one_are_refused(tmp_path, factor):
    file = write_tiff(tmp_path / "a.tif", (GREY / 255 * factor).astype(np.float32))
    with pytest.raises(UserError, match=r"outside of 0 to 1, which would become 0 to 255"):
        check([file])
    check([file], [0, factor])


def test_some_hot_pixels_hide_nothing_and_harm_nothing(tmp_path):
    scene = RNG.integers(0, 600, (100, 100)).astype(np.uint16)
    scene[0, ::2] = np.linspace(0, 65535, 50).astype(np.uint16)
    with pytest.raises(UserError, match="values 0 to 65535"):
        check([write_png(tmp_path / "sar.png", scene)])
    fine = GREY / 255
    fine[0, :3] = 7
    check([write_tiff(tmp_path / "fine.tif", fine.astype(np.float32))])


def test_detectron2s_mapper_reads_eight_bits(tmp_path):
    files = write_twins(tmp_path, GREY)
    check([files["8"], files["8 tiff"]], None)
    with pytest.raises(UserError, match=r"DatasetMapper reads eight bits.*DetectionMapper"):
        check([files["8"], files["16 png"]], None)


def test_what_cannot_be_read_is_left_to_others(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "broken.tif").write_bytes(b"II*\0\x08\0\0\0")
    (tmp_path / "text.txt").write_text("no image")
    cut = write_tiff(tmp_path / "cut.tif", GREY.astype(np.uint16) * 257)
    cut.write_bytes(cut.read_bytes()[:-1000])
    check([tmp_path / name for name in ("broken.png", "broken.tif", "text.txt", "none.png", "cut.tif", "none.jpg")])
    check([])
