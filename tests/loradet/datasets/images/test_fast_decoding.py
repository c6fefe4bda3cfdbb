"""JPEG and PNG by the fast decoders: Pillow's pixels of sound files, Pillow's word on broken ones."""

import itertools

import numpy as np
import pytest
from detectron2.data import detection_utils
from helpers.deep_images import write_png
from PIL import Image

from loradet.datasets.images import fast_decoding
from loradet.datasets.images.reading import read_image

HEIGHT, WIDTH = 61, 83
RNG = np.random.default_rng(0)
SCENE = (np.cumsum(np.cumsum(RNG.normal(size=(HEIGHT, WIDTH, 3)), 0), 1) * 2 % 256).astype(np.uint8)
JPEG_WAYS = [
    {"quality": quality, "subsampling": subsampling, "progressive": progressive}
    for quality, subsampling, progressive in itertools.product((20, 75, 98), (0, 1, 2), (False, True))
]


def save(path, image, **options):
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(path, **options)
    return path


def assert_as_detectron2_reads(path):
    for order in ("RGB", "BGR", "L"):
        expected = detection_utils.read_image(str(path), order)
        np.testing.assert_array_equal(read_image(str(path), order), expected, err_msg=f"{path.name} {order}")


@pytest.mark.parametrize("options", JPEG_WAYS, ids=lambda o: "-".join(map(str, o.values())))
def test_every_way_to_write_a_jpeg_gives_pillows_pixels(tmp_path, options):
    assert_as_detectron2_reads(save(tmp_path / "a.jpg", SCENE, **options))


def test_grey_rgb_and_cmyk_jpegs_give_pillows_pixels(tmp_path):
    assert_as_detectron2_reads(save(tmp_path / "grey.jpg", SCENE[..., 0]))
    assert_as_detectron2_reads(save(tmp_path / "rgb.jpg", SCENE, keep_rgb=True))
    assert_as_detectron2_reads(save(tmp_path / "cmyk.jpg", Image.fromarray(SCENE).convert("CMYK")))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_jpegs_are_turned_by_their_tag(tmp_path, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    for name, pixels in (("a.jpg", SCENE), ("grey.jpg", SCENE[..., 0])):
        assert_as_detectron2_reads(save(tmp_path / name, pixels, exif=exif))


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "1"])
def test_pngs_of_every_mode_give_pillows_pixels(tmp_path, mode):
    assert_as_detectron2_reads(save(tmp_path / "a.png", Image.fromarray(SCENE).convert(mode)))
    if mode in ("L", "RGB"):
        see_through = 7 if mode == "L" else (7, 8, 9)
        file = save(tmp_path / "t.png", Image.fromarray(SCENE).convert(mode), transparency=see_through)
        assert_as_detectron2_reads(file)


def test_a_grey_png_of_few_bits_gives_pillows_pixels(tmp_path):
    palette = Image.fromarray(SCENE[..., 0] // 64).convert("P")
    palette.putpalette([level for grey in (0, 85, 170, 255) for level in [grey] * 3])
    assert_as_detectron2_reads(save(tmp_path / "two.png", palette, bits=2))


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_cut_file_is_said_to_be_cut_as_before(tmp_path, suffix):
    data = save(tmp_path / f"whole.{suffix}", SCENE).read_bytes()
    cut = tmp_path / f"cut.{suffix}"
    for kept in (0.3, 0.9):
        cut.write_bytes(data[: int(len(data) * kept)])
        with pytest.raises(OSError, match=rf"Cannot read image file .*cut.{suffix}: OSError: .*truncated"):
            read_image(str(cut))


def test_a_jpeg_that_only_its_decoder_warns_of_is_still_read(tmp_path):
    data = bytearray(save(tmp_path / "a.jpg", SCENE, quality=90).read_bytes())
    data[len(data) // 2] ^= 0x55
    (tmp_path / "a.jpg").write_bytes(data)
    assert_as_detectron2_reads(tmp_path / "a.jpg")


def test_the_usual_files_are_decoded_fast_and_others_left_to_pillow(tmp_path):
    def is_fast(path):
        with path.open("rb") as file, Image.open(path) as image:
            return fast_decoding.decode_fast(file, image) is not None

    assert is_fast(save(tmp_path / "a.jpg", SCENE))
    assert is_fast(save(tmp_path / "grey.jpg", SCENE[..., 0]))
    assert is_fast(save(tmp_path / "a.png", SCENE))
    assert not is_fast(save(tmp_path / "a.bmp", SCENE))
    assert not is_fast(write_png(tmp_path / "deep.png", SCENE[..., 0].astype(np.uint16)))


def test_without_a_jpeg_decoder_pillow_gives_the_same(tmp_path, monkeypatch):
    file = save(tmp_path / "a.jpg", SCENE)
    fast = read_image(str(file))
    monkeypatch.setattr(fast_decoding, "simplejpeg", None)
    np.testing.assert_array_equal(read_image(str(file)), fast)
