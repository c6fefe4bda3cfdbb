"""Large JPEG files decoded at reduced scale: boxes as always, pixels nearly, and only where it may be."""

import numpy as np
import pytest
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from PIL import Image

from loradet.benchmarks.pixels import paint_scene
from loradet.datasets.images import fast_decoding
from loradet.datasets.images.reading import read_image, read_reduced
from loradet.datasets.loader import seeded
from loradet.datasets.mapper import DetectionMapper
from loradet.errors import UserError

HEIGHT, WIDTH = 301, 403
SCENE = paint_scene((HEIGHT, WIDTH), 2.0, 0)


def write(path, pixels=SCENE, **options):
    Image.fromarray(pixels).save(path, **options)
    return path


def record(path, height=HEIGHT, width=WIDTH):
    box = {"bbox": [30.0, 40.0, 200.0, 210.5], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1}
    return {"file_name": str(path), "image_id": 1, "height": height, "width": width, "annotations": [box]}


def mapped(path, short_edge, **options):
    augmentations = [T.ResizeShortestEdge(short_edge, 2000), T.RandomFlip()]
    with seeded(1):
        return DetectionMapper(True, augmentations=augmentations, image_format="RGB", **options)(record(path))


@pytest.mark.parametrize(
    ("at_least", "expected"),
    [
        ((400, 500), (301, 403)),
        ((151, 202), (301, 403)),
        ((75, 300), (301, 403)),
        ((150, 201), (151, 202)),
        ((76, 90), (151, 202)),
        ((75, 100), (76, 101)),
        ((37, 50), (38, 51)),
        ((5, 5), (38, 51)),
    ],
)
def test_the_scale_is_the_smallest_that_is_large_enough(tmp_path, at_least, expected):
    file = write(tmp_path / "a.jpg", quality=90)
    image, size = read_reduced(str(file), at_least)
    assert size == (HEIGHT, WIDTH)
    assert image.shape == (*expected, 3)
    turned = Image.Exif()
    turned[274] = 6
    file = write(tmp_path / "turned.jpg", quality=90, exif=turned)
    image, size = read_reduced(str(file), at_least[::-1])
    assert size == (WIDTH, HEIGHT)
    assert image.shape == (*expected[::-1], 3)


def test_boxes_are_the_same_and_pixels_nearly(tmp_path):
    file = write(tmp_path / "a.jpg", quality=90)
    for short_edge in (150, 120, 75, 40):
        usual, reduced = mapped(file, short_edge), mapped(file, short_edge, reduced_decode=True)
        assert reduced["image"].shape == usual["image"].shape
        assert (reduced["instances"].gt_boxes.tensor == usual["instances"].gt_boxes.tensor).all()
        distances = (reduced["image"].int() - usual["image"].int()).abs()
        assert 0 < distances.float().mean() < 3


def test_other_files_and_smaller_ones_are_decoded_as_always(tmp_path):
    png, jpeg = write(tmp_path / "a.png"), write(tmp_path / "a.jpg")
    for file, short_edge in ((png, 40), (jpeg, 160)):
        usual, reduced = mapped(file, short_edge), mapped(file, short_edge, reduced_decode=True)
        assert (reduced["image"] == usual["image"]).all()
    deep = write(tmp_path / "deep.png", SCENE[..., 0].astype(np.uint16) * 257)
    np.testing.assert_array_equal(read_reduced(str(deep), (10, 10))[0], read_image(str(deep)))


def test_a_file_of_another_size_than_its_record_is_still_refused(tmp_path):
    mapper = DetectionMapper(True, augmentations=[T.Resize((20, 20))], image_format="RGB", reduced_decode=True)
    file = write(tmp_path / "a.jpg")
    for wrong in ((HEIGHT, WIDTH + 1), (HEIGHT // 2, WIDTH // 2), (WIDTH, HEIGHT)):
        with pytest.raises(ValueError, match="403"):
            mapper(record(file, *wrong))


def test_it_is_refused_where_it_cannot_be(monkeypatch):
    class Own(DetectionMapper):
        def read_image(self, file_name, format):
            return super().read_image(file_name, format)

    resize = [T.Resize((20, 20))]
    options = {"image_format": "RGB", "reduced_decode": True}
    with pytest.raises(UserError, match="for the mapper of training alone"):
        DetectionMapper(False, augmentations=resize, **options)
    with pytest.raises(UserError, match=r"RGB, BGR or L, not of YUV-BT\.601"):
        DetectionMapper(True, augmentations=resize, image_format="YUV-BT.601", reduced_decode=True)
    with pytest.raises(UserError, match="Own reads images by a method of its own"):
        Own(True, augmentations=resize, **options)
    for augmentations in ([], [T.RandomFlip(), *resize]):
        with pytest.raises(UserError, match="the first augmentation has to say how large"):
            DetectionMapper(True, augmentations=augmentations, **options)
    monkeypatch.setattr(fast_decoding, "simplejpeg", None)
    with pytest.raises(UserError, match="pip install simplejpeg"):
        DetectionMapper(True, augmentations=resize, **options)
