"""Image files of every depth and orientation, and the rules that bring their values into 0..255."""

import numpy as np
import pytest
from detectron2.data import detection_utils
from helpers.deep_images import write_png, write_tiff, write_twins
from PIL import Image

from loradet.datasets.images.header import SampleFormat, image_size, sample_format
from loradet.datasets.images.intensity import Intensity
from loradet.datasets.images.reading import read_image, read_values
from loradet.errors import UserError

HEIGHT, WIDTH = 37, 52
GREY = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)
COLOR = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
DEPTHS = {
    "8": "8-bit unsigned",
    "8 tiff": "8-bit unsigned",
    "16 png": "16-bit unsigned",
    "16 tiff": "16-bit unsigned",
    "16 tiff, big endian": "16-bit unsigned",
    "16 pnm": "16-bit unsigned",
    "16 signed": "16-bit signed",
    "float": "32-bit float",
    "double": "64-bit float",
}


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Upright, from what is stored: the place of the stored first row and column is what the EXIF standard names."""
    rows_are_columns, upside, mirrored = {
        1: (False, False, False),
        2: (False, False, True),
        3: (False, True, True),
        4: (False, True, False),
        5: (True, False, False),
        6: (True, False, True),
        7: (True, True, True),
        8: (True, True, False),
    }[orientation]
    pixels = pixels.swapaxes(0, 1) if rows_are_columns else pixels
    pixels = pixels[::-1] if upside else pixels
    return pixels[:, ::-1] if mirrored else pixels


@pytest.mark.parametrize("scene", [GREY, COLOR], ids=["grey", "color"])
@pytest.mark.parametrize("rule", ["auto", "full_range"])
def test_twins_of_every_depth_are_one_image(tmp_path, scene, rule):
    expected = np.stack([scene] * 3, axis=-1) if scene.ndim == 2 else scene
    files = write_twins(tmp_path, scene)
    assert {name: str(sample_format(file)) for name, file in files.items()} == DEPTHS
    for name, file in files.items():
        for order, channels in (("RGB", slice(None)), ("BGR", slice(None, None, -1))):
            found = read_image(str(file), order, Intensity.parse(rule))
            assert found.dtype == np.uint8
            np.testing.assert_array_equal(found, expected[..., channels], err_msg=name)
        assert image_size(file) == (WIDTH, HEIGHT)


def test_eight_bits_are_read_as_detectron2_reads_them(tmp_path):
    palette = Image.fromarray(COLOR).quantize(17)
    images = {"p.png": palette, "la.png": Image.fromarray(GREY).convert("LA"), "one.png": Image.fromarray(GREY > 99)}
    images |= {"rgba.png": Image.fromarray(COLOR).convert("RGBA"), "cmyk.jpg": Image.fromarray(COLOR).convert("CMYK")}
    for name, image in images.items():
        image.save(tmp_path / name)
        for order in ("RGB", "BGR", "L", "YUV-BT.601"):
            expected = detection_utils.read_image(str(tmp_path / name), order)
            np.testing.assert_array_equal(read_image(str(tmp_path / name), order), expected, err_msg=name)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_once(tmp_path, orientation):
    wide, fraction = COLOR.astype(np.uint16) * 257, GREY.astype(np.float32) / np.float32(255)
    files = {
        write_tiff(tmp_path / "8.tif", COLOR, orientation=orientation): COLOR,
        write_tiff(tmp_path / "16.tif", wide, orientation=orientation): COLOR,
        write_tiff(tmp_path / "float.tif", fraction, orientation=orientation): np.stack([GREY] * 3, axis=-1),
        write_png(tmp_path / "8.png", COLOR, orientation=orientation): COLOR,
        write_png(tmp_path / "16.png", wide, orientation=orientation): COLOR,
        write_png(tmp_path / "late.png", COLOR, orientation=orientation, late=True): COLOR,
        write_png(tmp_path / "late16.png", wide, orientation=orientation, late=True): COLOR,
    }
    for file, stored in files.items():
        expected = turned(stored, orientation)
        np.testing.assert_array_equal(read_image(str(file)), expected, err_msg=file.name)
        assert image_size(file) == expected.shape[1::-1], file.name


@pytest.mark.parametrize("orientation", ["6", "top", 0, 9, 65535])
def test_orientations_that_do_not_exist_turn_nothing(tmp_path, orientation):
    files = [write_tiff(tmp_path / f"{p.itemsize}.tif", p, orientation=orientation) for p in (COLOR, COLOR / 255)]
    if not isinstance(orientation, str):
        files.append(write_png(tmp_path / "8.png", COLOR, orientation=orientation))
    for file in files:
        np.testing.assert_array_equal(read_image(str(file)), COLOR)
        assert image_size(file) == (WIDTH, HEIGHT)


def test_zero_may_be_white(tmp_path):
    shallow = write_tiff(tmp_path / "8.tif", 255 - GREY, photometric=0)
    deep = write_tiff(tmp_path / "16.tif", 65535 - GREY.astype(np.uint16) * 257, photometric=0)
    np.testing.assert_array_equal(read_image(str(shallow), "L")[..., 0], GREY)
    np.testing.assert_array_equal(read_image(str(deep), "L")[..., 0], GREY)


def test_a_range_is_straight_between_its_ends_and_clipped_outside(tmp_path):
    values = np.array([[0, 999, 1000, 1500, 2000, 3000, 3001, 65535]], np.uint16)
    file = str(write_png(tmp_path / "a.png", values))
    found = read_image(file, "L", Intensity.parse([1000, 3000]))[0, :, 0]
    assert found.tolist() == [0, 0, 0, 64, 128, 255, 255, 255]
    assert read_image(file, "L", Intensity.parse("auto"))[0, :, 0].tolist() == [0, 4, 4, 6, 8, 12, 12, 255]
    np.testing.assert_array_equal(read_values(file)[0], values)


def test_a_range_holds_for_eight_bits_too(tmp_path):
    Image.fromarray(np.array([[10, 20, 30, 40]], np.uint8)).save(tmp_path / "a.png")
    assert read_image(str(tmp_path / "a.png"), "L", Intensity.parse([20, 30]))[0, :, 0].tolist() == [0, 0, 255, 255]


def test_no_number_is_black(tmp_path):
    values = np.array([[np.nan, -np.inf, np.inf, 0.5, 2.0, -1.0]], np.float32)
    file = str(write_tiff(tmp_path / "a.tif", values))
    assert read_image(file, "L")[0, :, 0].tolist() == [0, 0, 255, 128, 255, 0]
    assert read_image(file, "L", Intensity.parse("percentile:0,100"))[0, :, 0].tolist() == [0, 0, 255, 128, 255, 0]


def test_percentiles_are_of_each_image_and_the_same_for_its_twins(tmp_path):
    dim = (GREY // 4 + 20).astype(np.uint8)
    rule = Intensity.parse("percentile:1,99")
    found = {name: read_image(str(file), "L", rule) for name, file in write_twins(tmp_path, dim).items()}
    low, high = np.percentile(dim, [1, 99], method="nearest").astype(int)
    expected = np.rint(np.clip((dim.astype(float) - low) / (high - low), 0, 1) * 255)
    for name, image in found.items():
        np.testing.assert_array_equal(image[..., 0], expected, err_msg=name)
    flat = write_tiff(tmp_path / "flat.tif", np.full((4, 5), 700, np.uint16))
    assert not read_image(str(flat), "L", rule).any()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("min_max", "expected auto, full_range"),
        ("percentile:99,1", "two percents"),
        ("percentile:1", "two percents"),
        ("percentile:-1,99", "two percents"),
        ("percentile:a,b", "two percents"),
        ([5], "two numbers"),
        ([5, 5], "second one higher"),
        ([0, float("nan")], "two numbers"),
        ([True, 3], "two numbers"),
        (7, "expected auto"),
        (None, "expected auto"),
    ],
)
def test_what_is_no_rule_is_said(value, message):
    with pytest.raises(UserError, match=message):
        Intensity.parse(value)


@pytest.mark.parametrize(
    "value", ["auto", "full_range", [0, 4095], [-1.5, 2.5], "percentile:1,99", "percentile:0.5,99"]
)
def test_rules_are_written_as_they_were_read(value):
    assert Intensity.parse(value).to_value() == value
    assert Intensity.parse(Intensity.parse(value).to_value()) == Intensity.parse(value)


def test_limits_follow_from_the_format():
    assert SampleFormat("unsigned", 12).limits == (0, 4095)
    assert SampleFormat("signed", 16).limits == (-32768, 32767)
    assert SampleFormat("float", 64).limits == (0, 1)


def test_a_portable_graymap_says_its_highest_value(tmp_path):
    (tmp_path / "a.pgm").write_bytes(b"P5\n# of a camera\n3 1\n4095\n" + np.array([0, 2048, 4095], ">u2").tobytes())
    assert str(sample_format(tmp_path / "a.pgm")) == "12-bit unsigned"
    assert read_image(str(tmp_path / "a.pgm"), "L")[0, :, 0].tolist() == [0, 128, 255]


def test_what_cannot_be_decoded_names_the_file_and_why(tmp_path):
    wide = COLOR.astype(np.uint16)
    files = {
        write_tiff(tmp_path / "planes.tif", wide, planes=2): "one after another",
        write_tiff(tmp_path / "bands.tif", np.dstack([wide, wide]), photometric=1): "6 channels",
        write_tiff(tmp_path / "cmyk.tif", np.dstack([wide, wide[..., :1]]), photometric=5): "photometric interp",
        write_tiff(tmp_path / "half.tif", (GREY / 255).astype(np.float16)): "cannot decode its 16-bit float",
    }
    cut = write_tiff(tmp_path / "cut.tif", wide)
    cut.write_bytes(cut.read_bytes()[:-3000])
    files[cut] = "cannot decode its 16-bit unsigned"
    for file, message in files.items():
        with pytest.raises(OSError, match=f"{file.name}.*{message}"):
            read_image(str(file))
    with pytest.raises(FileNotFoundError, match=r"none\.tif does not exist"):
        read_image(str(tmp_path / "none.tif"))
