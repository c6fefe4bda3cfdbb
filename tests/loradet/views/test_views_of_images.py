"""What a model gets to see, and that a real one finds the same in the same pixels."""

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from helpers.random_detector import assert_same_detections, config, detector, picture
from PIL import Image

from loradet.config.splits import evaluation_mapper
from loradet.datasets.mapper import DetectionMapper
from loradet.errors import UserError
from loradet.inference.exported import CheckedMapper
from loradet.views import ViewDetector, ViewMapper, Views
from loradet.views.mapper import map_pixels


@pytest.fixture(scope="module")
def model():
    return detector()


@pytest.fixture(scope="module")
def mapper():
    return instantiate(evaluation_mapper(config()))


@pytest.fixture
def image(tmp_path):
    file = tmp_path / "image.png"
    Image.fromarray(picture(170, 260)).save(file)
    return file


def record(file):
    return {"file_name": str(file), "image_id": 7}


def test_a_tile_is_mapped_as_a_file_of_its_pixels(mapper, image, tmp_path):
    sample = ViewMapper(mapper, Views(tiles=100, flip=True))(record(image))
    assert (sample["height"], sample["width"], sample["image_id"]) == (170, 260, 7)
    assert len(sample["views"]) == 2 * 3 * 2
    for plain, mirrored in zip(sample["views"][::2], sample["views"][1::2]):
        left, top, width, height = plain.window
        Image.open(image).crop((left, top, left + width, top + height)).save(tmp_path / "tile.png")
        wanted = mapper(record(tmp_path / "tile.png"))["image"]
        assert plain.image.equal(wanted) and plain.window == mirrored.window
        assert mirrored.image.equal(wanted.flip(2)) and mirrored.flipped


@pytest.mark.parametrize(
    ("augmentations", "sizes"),
    [
        ([T.ResizeShortestEdge(100, 130)], [(43, 65), (85, 130), (128, 195)]),
        ([T.Resize((60, 80))], [(30, 40), (60, 80), (90, 120)]),
        ([], [(85, 130), (170, 260), (255, 390)]),
        ([T.ResizeShortestEdge(0)], [(85, 130), (170, 260), (255, 390)]),
    ],
)
def test_scales_are_of_what_the_mapper_makes(image, augmentations, sizes):
    mapper = DetectionMapper(is_train=False, augmentations=augmentations, image_format="BGR")
    sample = ViewMapper(mapper, Views(scales=(0.5, 1, 1.5)))(record(image))
    assert [tuple(view.image.shape[1:]) for view in sample["views"]] == sizes
    assert sample["views"][1].image.equal(mapper(record(image))["image"])


def test_a_mirrored_image_has_mirrored_boxes(model, mapper, image, tmp_path):
    """The boxes in the mirrored view are those in a file of the mirrored pixels, mirrored back."""
    Image.open(image).resize((256, 192)).save(image)  # of the model's size: nothing is resized
    Image.fromarray(np.asarray(Image.open(image))[:, ::-1]).save(tmp_path / "mirrored.png")
    views = Views(flip=True)
    sample = ViewMapper(mapper, views)(record(image))
    only = {**sample, "views": sample["views"][1:]}
    with torch.no_grad():
        (found,) = ViewDetector(model, views)([only])
        (wanted,) = model([mapper(record(tmp_path / "mirrored.png"))])
    boxes = wanted["instances"].pred_boxes.tensor
    wanted["instances"].pred_boxes.tensor = torch.stack(
        [256 - boxes[:, 2], boxes[:, 1], 256 - boxes[:, 0], boxes[:, 3]], 1
    )
    assert_same_detections(found["instances"], wanted["instances"], tolerance=1e-5)


def test_an_image_smaller_than_a_tile_is_as_without_tiles(model, mapper, image):
    views = Views(tiles=300)
    with torch.no_grad():
        (found,) = ViewDetector(model, views)([ViewMapper(mapper, views)(record(image))])
        (wanted,) = model([mapper(record(image))])
    assert_same_detections(found["instances"], wanted["instances"], tolerance=1e-6)


def test_several_images_share_batches(model, mapper, image, tmp_path):
    Image.fromarray(picture(90, 260, seed=1)).save(tmp_path / "low.png")
    views = Views(tiles=90, scales=(1, 1.3), merge="fusion")
    samples = [ViewMapper(mapper, views)(record(file)) for file in (image, tmp_path / "low.png")]
    with torch.no_grad():
        alone = [ViewDetector(model, views)([sample])[0] for sample in samples]
        together = ViewDetector(model, views, batch_size=5)(samples)
    for one, other in zip(together, alone):
        assert_same_detections(one["instances"], other["instances"])


def test_views_too_large_for_an_exported_model_are_refused(mapper, image):
    checked = CheckedMapper(mapper=mapper, about={"size": [192, 256]})
    assert len(ViewMapper(checked, Views(tiles=100))(record(image))["views"]) == 6
    with pytest.raises(UserError, match=r"image.png is 288x288 .* takes 256x192 at most"):
        ViewMapper(checked, Views(tiles=100, scales=(1.5,)))(record(image))


def test_mappers_that_read_files_alone_are_refused():
    plain = DatasetMapper(is_train=False, augmentations=[], image_format="RGB")
    with pytest.raises(UserError, match="The test mapper is a DatasetMapper, which reads files alone"):
        ViewMapper(plain, Views(tiles=64))
    cropping = DetectionMapper(is_train=False, augmentations=[T.RandomFlip(), T.Resize((9, 9))], image_format="RGB")
    with pytest.raises(UserError, match="are RandomFlip, Resize; scales need Resize or"):
        ViewMapper(cropping, Views(scales=(2,)))
    assert ViewMapper(cropping, Views(tiles=64)).image_format == "RGB"


def test_pixels_take_the_place_of_a_file(mapper):
    pixels = picture(50, 70)
    sample = map_pixels(mapper, pixels, {"file_name": "nowhere.png", "image_id": 1})
    assert (sample["height"], sample["width"]) == (50, 70) and sample["image"].shape == (3, 183, 256)
    with pytest.raises(OSError, match=r"nowhere\.png"):
        mapper({"file_name": "nowhere.png"})
