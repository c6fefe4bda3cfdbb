"""Dataset dicts that are made when they are asked for: a sequence like a list of them, small, and shared by workers."""

import copy
import itertools
import json
import multiprocessing
import pickle
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch
from detectron2.data import build_detection_test_loader
from detectron2.structures import BoxMode

from loradet.datasets import coco_dataset
from loradet.datasets.loader import build_train_loader
from loradet.datasets.readers.records import Records, column


@pytest.fixture
def records(coco_folder):
    return coco_dataset(coco_folder.json, coco_folder.images)


def by_hand(folder) -> list[dict]:
    """The dicts of the folder's file, worked out without the reader."""
    places = {2: 0, 5: 1, 90: 2}
    return [
        {
            "file_name": str(folder.images / image["file_name"]),
            "height": image["height"],
            "width": image["width"],
            "image_id": image["id"],
            "annotations": [
                {
                    "bbox": [float(number) for number in ann["bbox"]],
                    "bbox_mode": BoxMode.XYWH_ABS,
                    "category_id": places[ann["category_id"]],
                    "iscrowd": ann["iscrowd"],
                }
                for ann in folder.content["annotations"]
                if ann["image_id"] == image["id"]
            ],
        }
        for image in folder.content["images"]
    ]


def test_it_is_a_sequence_of_the_dicts(coco_folder, records):
    expected = by_hand(coco_folder)
    assert list(records) == expected and records == expected and expected == records
    assert [records[n] for n in range(3)] == expected and records[-1] == expected[-1]
    assert records[np.int64(1)] == expected[1] and records[torch.tensor(1)] == expected[1]
    assert records[1:] == expected[1:] and records[::-1] == expected[::-1]
    assert records + records == 2 * expected and expected + records == records + expected == 2 * expected
    assert records != expected[:2] and records != [*expected[:2], {}]
    assert records[0] in records and records.index(expected[2]) == 2 and len(records) == 3
    with pytest.raises(IndexError, match="3 is out of range for 3"):
        records[3]
    with pytest.raises(TypeError):
        records["file_name"]
    kinds = {key: type(value) for key, value in records[0].items()}
    assert kinds == {"file_name": str, "height": int, "width": int, "image_id": int, "annotations": list}
    assert [type(value) for value in records[0]["annotations"][0].values()] == [list, BoxMode, int, int]


def test_what_is_done_to_a_dict_stays_outside(coco_folder, records):
    records[0]["annotations"].clear()
    dicts = list(records)
    dicts[1]["width"] = -1
    assert records == by_hand(coco_folder)


def test_columns_are_those_of_the_dicts(records):
    for key in ("file_name", "image_id", "height", "width"):
        assert column(records, key) == column(list(records), key) == [record[key] for record in records]


def test_texts_as_ids_and_names_of_any_language(coco_folder):
    for image, name in zip(coco_folder.content["images"], ("a.jpg", "café 猫.png", "empty.png")):
        image["file_name"] = name
        for ann in coco_folder.content["annotations"]:
            ann["image_id"] = f"id {image['id']}" if ann["image_id"] == image["id"] else ann["image_id"]
        image["id"] = f"id {image['id']}"
    coco_folder.write()
    records = coco_dataset(coco_folder.json, coco_folder.images)
    assert list(records) == by_hand(coco_folder)


def test_images_that_are_left_out_take_their_boxes_along(coco_folder):
    records = coco_dataset(coco_folder.json, coco_folder.images, filter_empty=True, min_size=45)
    assert list(records) == by_hand(coco_folder)[:1]


def test_copies_and_pickles_are_equal(records):
    assert pickle.loads(pickle.dumps(records)) == copy.deepcopy(records) == records


def test_a_process_that_is_spawned_gets_no_copy(tmp_path):
    (tmp_path / "1.png").touch()
    boxes = np.random.default_rng(0).uniform(1, 30, (40000, 4)).tolist()
    content = {
        "images": [{"id": n, "file_name": f"{n}.png", "width": 64, "height": 64} for n in range(1, 2001)],
        "categories": [{"id": 1, "name": "cell"}],
        "annotations": [
            {"id": n, "image_id": 1 + n % 2000, "category_id": 1, "bbox": box, "area": 9, "iscrowd": 0}
            for n, box in enumerate(boxes, start=1)
        ],
    }
    (tmp_path / "instances.json").write_text(json.dumps(content))
    records = coco_dataset(tmp_path / "instances.json", tmp_path)
    assert len(ForkingPickler.dumps(records)) < 10_000 < 1_000_000 < len(pickle.dumps(list(records)))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_loaders_give_what_they_give_of_a_list(records, num_workers):
    def stream(dataset):
        loader = build_train_loader(dataset, mapper=dict, total_batch_size=1, num_workers=num_workers, seed=3)
        return list(itertools.islice(iter(loader), 8))

    assert stream(records) == stream(list(records))
    assert isinstance(build_train_loader(records, mapper=dict, total_batch_size=1).records, Records)
    tested = [
        list(build_detection_test_loader(dataset=dataset, mapper=dict, num_workers=num_workers))
        for dataset in (records, list(records))
    ]
    assert tested[0] == tested[1]


def test_a_spawned_process_reads_what_a_forked_one_reads(records):
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("spawn", force=True)
    try:
        loader = build_train_loader(records, mapper=dict, total_batch_size=2, num_workers=1, seed=3)
        found = list(itertools.islice(iter(loader), 3))
    finally:
        multiprocessing.set_start_method(before, force=True)
    loader = build_train_loader(list(records), mapper=dict, total_batch_size=2, num_workers=0, seed=3)
    assert found == list(itertools.islice(iter(loader), 3))
