"""Loaders, the mapper and image reading on small files."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import (
    DatasetMapper,
    ToIterableDataset,
    build_batch_data_loader,
    build_detection_test_loader,
    build_detection_train_loader,
    detection_utils,
)
from detectron2.data import transforms as T
from detectron2.data.samplers import TrainingSampler
from detectron2.structures import BoxMode
from detectron2.utils import comm
from PIL import Image


def make_records(folder: Path, sizes: list[tuple[int, int]]) -> list[dict]:
    records = []
    for i, (height, width) in enumerate(sizes):
        file = folder / f"{i}.png"
        Image.fromarray(np.full((height, width, 3), i, dtype=np.uint8)).save(file)
        box = {"bbox": [1, 1, 3, 4], "bbox_mode": BoxMode.XYWH_ABS, "category_id": i % 2}
        records.append(
            {
                "file_name": str(file),
                "height": height,
                "width": width,
                "image_id": 100 + i,
                "annotations": [box],
            }
        )
    return records


@pytest.fixture
def records(tmp_path) -> list[dict]:
    return make_records(tmp_path, [(8, 10), (10, 8), (9, 12), (12, 9), (8, 8), (7, 20), (20, 7)])


def make_mapper(is_train: bool = True, *augmentations) -> DatasetMapper:
    return DatasetMapper(is_train, augmentations=list(augmentations), image_format="BGR")


def ids(batches) -> list[list[int]]:
    return [[item["image_id"] for item in batch] for batch in batches]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_training_batches_follow_the_sampler(records, num_workers):
    loader = build_detection_train_loader(
        records,
        mapper=make_mapper(),
        sampler=TrainingSampler(len(records), seed=3),
        total_batch_size=3,
        aspect_ratio_grouping=False,
        num_workers=num_workers,
    )
    stream = [100 + i for i in itertools.islice(TrainingSampler(len(records), seed=3), 12)]
    assert ids(itertools.islice(loader, 4)) == [stream[i : i + 3] for i in range(0, 12, 3)]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_grouped_batches_have_one_orientation(records, num_workers):
    loader = build_detection_train_loader(records, mapper=make_mapper(), total_batch_size=2, num_workers=num_workers)
    for batch in itertools.islice(loader, 8):
        assert len({item["width"] > item["height"] for item in batch}) == 1
        for item in batch:
            assert item["image"].shape == (3, item["height"], item["width"])
            assert len(item["instances"]) == 1


def test_a_collate_function_makes_the_batch(records):
    for grouping in (True, False):
        loader = build_detection_train_loader(
            records, mapper=make_mapper(), total_batch_size=2, aspect_ratio_grouping=grouping, collate_fn=len
        )
        assert next(iter(loader)) == 2


def test_workers_draw_different_augmentations(records):
    mapper = make_mapper(True, T.RandomBrightness(0, 1))
    bright = [{**records[6], "image_id": i} for i in range(4)]
    loader = build_detection_train_loader(
        bright,
        mapper=lambda _: np.random.rand(),
        total_batch_size=1,
        aspect_ratio_grouping=False,
        num_workers=2,
    )
    drawn = [batch[0] for batch in itertools.islice(loader, 8)]
    assert len(set(drawn)) == 8
    assert mapper(bright[0])["image"].dtype == torch.uint8


def test_a_seed_fixes_what_workers_draw(records):
    def draw(seed: int) -> list[float]:
        loader = build_detection_train_loader(
            records,
            mapper=lambda _: np.random.rand(),
            sampler=TrainingSampler(len(records), seed=1),
            total_batch_size=2,
            aspect_ratio_grouping=False,
            num_workers=2,
            seed=seed,
        )
        return [value for batch in itertools.islice(loader, 4) for value in batch]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_inference_goes_once_through_in_order(records, num_workers):
    loader = build_detection_test_loader(records, mapper=make_mapper(False), batch_size=3, num_workers=num_workers)
    assert ids(loader) == [[100, 101, 102], [103, 104, 105], [106]]
    assert "annotations" not in next(iter(loader))[0]


def test_the_total_batch_is_split_over_ranks(records, monkeypatch):
    monkeypatch.setattr("detectron2.data.build.get_world_size", lambda: 2)
    sampler = TrainingSampler(len(records), seed=0)
    loader = build_batch_data_loader(records, sampler, 6)
    assert len(next(iter(loader))) == 3
    assert len(next(iter(build_batch_data_loader(records, sampler, None, single_gpu_batch_size=5)))) == 5
    for total in (5, 0, -2):
        with pytest.raises(AssertionError, match=str(total)):
            build_batch_data_loader(records, sampler, total)
    with pytest.raises(ValueError, match="single_gpu_batch_size"):
        build_batch_data_loader(records, sampler, 2, single_gpu_batch_size=2)
    with pytest.raises(AssertionError):
        build_batch_data_loader(records, sampler, 2, aspect_ratio_grouping=True, drop_last=False)
    assert comm.get_world_size() == 1


@pytest.mark.subset
@pytest.mark.parametrize(("damage", "num_workers"), [("absent", 0), ("garbage", 0), ("truncated", 0), ("garbage", 1)])
def test_an_unreadable_image_is_named(records, damage, num_workers):
    file = Path(records[2]["file_name"])
    content = file.read_bytes()
    file.unlink()
    if damage != "absent":
        file.write_bytes(b"no image" if damage == "garbage" else content[: len(content) // 2])
    loader = build_detection_test_loader(records, mapper=make_mapper(False), num_workers=num_workers)
    with pytest.raises(OSError, match=r"(?s)2\.png.*image_id 102"):
        list(loader)


def test_a_wrong_size_is_named(records):
    records[0]["height"] = 77
    with pytest.raises(detection_utils.SizeMismatchError, match=r"0\.png.*10\D+8\D.*10\D+77"):
        make_mapper()(records[0])


def test_a_record_without_size_gets_that_of_the_image(records):
    del records[0]["height"], records[0]["width"]
    mapped = make_mapper(False, T.Resize((16, 20)))(records[0])
    assert (mapped["height"], mapped["width"]) == (8, 10)
    assert mapped["image"].shape == (3, 16, 20)


@pytest.mark.subset
def test_integer_boxes_keep_their_fraction(records):
    """Detectron2 keeps the integers of such a box, and so loses the fractions when the image is resized."""
    instances = make_mapper(True, T.Resize((12, 15)))(records[0])["instances"]
    torch.testing.assert_close(instances.gt_boxes.tensor, torch.tensor([[1.5, 1.5, 6.0, 7.5]]))


def test_boxes_outside_are_clipped_and_empty_ones_leave(records):
    base = records[0]["annotations"][0]
    records[0]["annotations"] = [
        {**base, "bbox": [-5, -5, 8, 8]},
        {**base, "bbox": [50, 50, 8, 8]},
        {**base, "bbox": [1, 1, 0, 5]},
        {**base, "iscrowd": 1},
        {**base, "bbox": [6, 6, 99, 99], "segmentation": [[0, 0, 1, 1, 2, 0]], "keypoints": [1, 2, 2]},
    ]
    instances = make_mapper()(records[0])["instances"]
    assert instances.gt_boxes.tensor.tolist() == [[0, 0, 3, 3], [6, 6, 10, 8]]
    assert instances.image_size == (8, 10)


def test_gray_images(records):
    mapped = DatasetMapper(False, augmentations=[T.Resize((4, 5))], image_format="L")(records[3])
    assert mapped["image"].shape == (1, 4, 5)
    assert mapped["image"].unique().tolist() == [3]


def test_what_has_no_annotations_has_no_instances(records):
    del records[0]["annotations"]
    assert "instances" not in make_mapper()(records[0])


@pytest.mark.subset
@pytest.mark.parametrize(
    "option",
    [
        {"use_instance_mask": True},
        {"use_keypoint": True},
        {"keypoint_hflip_indices": np.zeros(3)},
        {"precomputed_proposal_topk": 0},
        {"recompute_boxes": True},
    ],
)
def test_masks_keypoints_and_proposals_say_where_they_are(option):
    (name,) = option
    with pytest.raises(NotImplementedError, match=f"{name}.*installed Detectron2"):
        DatasetMapper(True, augmentations=[], image_format="BGR", **option)


@pytest.mark.subset
def test_masks_in_an_annotation_are_refused(records):
    annotation = {**records[0]["annotations"][0], "segmentation": [[0, 0, 1, 1, 2, 0]]}
    with pytest.raises(NotImplementedError, match="segmentation"):
        detection_utils.transform_instance_annotations(annotation, T.NoOpTransform(), (8, 8))
    with pytest.raises(NotImplementedError, match="masks"):
        detection_utils.annotations_to_instances([annotation], (8, 8))


def test_images_are_shown_as_rgb():
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    np.testing.assert_array_equal(detection_utils.convert_image_to_rgb(image, "BGR"), image[..., ::-1])
    np.testing.assert_array_equal(detection_utils.convert_image_to_rgb(torch.from_numpy(image), "RGB"), image)
    gray = detection_utils.convert_image_to_rgb(image[..., :1], "L")
    np.testing.assert_array_equal(gray, np.repeat(image[..., :1], 3, axis=2))


def test_bt_601():
    """Recorded from Detectron2 0.6 (main of 2026-06-06): Y in [0, 1], and RGB in [0, 255] again."""
    image = np.array([[[255, 0, 0], [10, 200, 30]]], dtype=np.uint8)
    yuv = detection_utils.convert_PIL_to_numpy(Image.fromarray(image), "YUV-BT.601")
    np.testing.assert_allclose(yuv, [[[0.299, -0.14713, 0.615], [0.48553, -0.18103, -0.39156]]], atol=1e-5)
    np.testing.assert_allclose(detection_utils.convert_image_to_rgb(yuv, "YUV-BT.601"), image, atol=0.01)


def test_boxes_of_annotations():
    for box, mode, expected in (
        ([1, 2, 3, 4], BoxMode.XYWH_ABS, [1, 2, 4, 6]),
        ([1.0, 2.0, 3.0, 4.0], BoxMode.XYXY_ABS, [1.0, 2.0, 3.0, 4.0]),
    ):
        assert detection_utils.get_bbox({"bbox": box, "bbox_mode": mode}) == expected


def test_label_maps_follow_the_image(records, tmp_path):
    labels = np.zeros((8, 10), dtype=np.uint8)
    labels[:, :4] = 7
    Image.fromarray(labels).save(tmp_path / "labels.png")
    records[0]["sem_seg_file_name"] = str(tmp_path / "labels.png")
    for is_train in (True, False):
        mapped = make_mapper(is_train, T.HFlipTransform(10), T.Resize((16, 20)))(records[0])
        assert mapped["sem_seg"].dtype == torch.int64
        np.testing.assert_array_equal(mapped["sem_seg"], labels[:, ::-1].repeat(2, 0).repeat(2, 1))
        assert "sem_seg_file_name" not in mapped


class KeepsCrowds(DatasetMapper):
    def _transform_annotations(self, dataset_dict, transforms, image_shape):
        assert not (self.use_instance_mask or self.use_keypoint or self.recompute_boxes)
        for annotation in dataset_dict["annotations"]:
            annotation["iscrowd"] = 0
        super()._transform_annotations(dataset_dict, transforms, image_shape)


def test_a_subclass_may_choose_annotations(records):
    records[0]["annotations"][0]["iscrowd"] = 1
    assert len(make_mapper()(records[0])["instances"]) == 0
    mapper = KeepsCrowds(True, augmentations=[T.Resize((16, 20))], image_format="RGB")
    assert mapper(records[0])["instances"].gt_boxes.tensor.tolist() == [[2, 2, 8, 10]]


def test_the_log_says_what_is_applied(caplog):
    caplog.set_level("INFO")
    make_mapper(True, T.RandomFlip(prob=0.3), T.Resize(5))
    make_mapper(False)
    assert "in training: [RandomFlip(prob=0.3), Resize(shape=(5, 5))]" in caplog.text
    assert "in inference: []" in caplog.text


def test_an_iterable_data_set_takes_no_sampler(records):
    stream = ToIterableDataset(records, TrainingSampler(len(records), shuffle=False))
    loader = build_detection_train_loader(stream, mapper=make_mapper(), total_batch_size=2, aspect_ratio_grouping=False)
    assert ids(itertools.islice(loader, 2)) == [[100, 101], [102, 103]]
    with pytest.raises(AssertionError):
        build_detection_train_loader(stream, mapper=None, sampler=TrainingSampler(7), total_batch_size=2)
    with pytest.raises(AssertionError):
        build_detection_train_loader(records, mapper=None, sampler=range(7), total_batch_size=2)
