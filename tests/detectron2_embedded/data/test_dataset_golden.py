"""COCO records, the mapper and image reading against what Detectron2 gives for the same files."""

import builtins
import json
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL
import pytest
from detectron2.data import (
    DatasetCatalog,
    DatasetMapper,
    MetadataCatalog,
    detection_utils,
    get_detection_dataset_dicts,
)
from detectron2.data import transforms as T
from detectron2.data.build import filter_images_with_only_crowd_annotations
from detectron2.data.datasets import load_coco_json, register_coco_instances

pytestmark = pytest.mark.golden

NAME = "golden_dataset"
MAX_DIFFERENCE = 0 if PIL.__version__.startswith("13.") else 1


@pytest.fixture
def golden(golden_d2: Path):
    folder = golden_d2 / "dataset"
    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    with np.load(folder / "arrays.npz", allow_pickle=False) as file:
        arrays = dict(file)
    register_coco_instances(NAME, {}, str(folder / "annotations.json"), str(folder / expected["image_root"]))
    yield SimpleNamespace(folder=folder, expected=expected, arrays=arrays)
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def load(golden, name: str | None) -> list[dict]:
    root = golden.folder / golden.expected["image_root"]
    keys = golden.expected["extra_annotation_keys"] if name else None
    return load_coco_json(str(golden.folder / "annotations.json"), str(root), name, keys)


def shown(records: list[dict], root: Path) -> list[dict]:
    """Records as the fixture writes them: JSON values, file names relative to the image folder."""
    relative = [{**r, "file_name": str(Path(r["file_name"]).relative_to(root))} for r in records]
    return json.loads(json.dumps(relative))


def check_close(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    if expected.dtype == np.uint8:
        assert np.abs(found.astype(int) - expected.astype(int)).max(initial=0) <= MAX_DIFFERENCE
    else:
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_records(golden):
    root = golden.folder / golden.expected["image_root"]
    assert shown(load(golden, NAME), root) == golden.expected["records"]
    assert shown(load(golden, None), root) == golden.expected["records_without_dataset_name"]
    metadata = MetadataCatalog.get(NAME)
    assert metadata.thing_classes == golden.expected["thing_classes"]
    id_map = {str(k): v for k, v in metadata.thing_dataset_id_to_contiguous_id.items()}
    assert id_map == golden.expected["thing_dataset_id_to_contiguous_id"]


def test_filtering(golden):
    kept = filter_images_with_only_crowd_annotations(load(golden, NAME))
    expected = golden.expected["image_ids_after_filter_images_with_only_crowd_annotations"]
    assert [r["image_id"] for r in kept] == expected
    for key, filter_empty in (("filter_empty", True), ("keep_empty", False)):
        records = get_detection_dataset_dicts([NAME], filter_empty=filter_empty)
        expected = golden.expected["image_ids_get_detection_dataset_dicts"][key]
        assert [r["image_id"] for r in records] == expected


def test_mapper(golden):
    settings = golden.expected["mapper"]
    records = load(golden, NAME)
    for run in settings["runs"]:
        mode, image_format = run["kind"].split("_")
        if mode == "train":
            resize = T.ResizeShortestEdge(settings["short_edge_length"], settings["max_size"], **settings["train"])
            mapper = DatasetMapper(True, augmentations=[resize, T.RandomFlip()], image_format=image_format)
        else:
            resize = T.ResizeShortestEdge(settings["test_short_edge"], settings["max_size"])
            mapper = DatasetMapper(False, augmentations=[resize], image_format=image_format)
        record = records[run["record"]]
        before = deepcopy(record)
        np.random.seed(run.get("np_seed", 0))
        mapped = mapper(record)
        assert record == before
        assert sorted(mapped) == run["keys"]
        assert (mapped["height"], mapped["width"]) == (run["height"], run["width"])
        key = f"mapper/{run['kind']}/{run['record']}"
        check_close(mapped["image"].numpy(), golden.arrays[f"{key}/image"])
        if "instances" in mapped:
            instances = mapped["instances"]
            assert list(instances.image_size) == run["image_size"]
            check_close(instances.gt_boxes.tensor.numpy(), golden.arrays[f"{key}/gt_boxes"])
            check_close(instances.gt_classes.numpy(), golden.arrays[f"{key}/gt_classes"])


def test_instances(golden):
    for i, record in enumerate(load(golden, NAME)):
        annotations = [{k: v for k, v in a.items() if k != "segmentation"} for a in record["annotations"]]
        size = (record["height"], record["width"])
        instances = detection_utils.annotations_to_instances(annotations, size)
        key = f"annotations_to_instances/{i}"
        check_close(instances.gt_boxes.tensor.numpy(), golden.arrays[f"{key}/gt_boxes"])
        check_close(instances.gt_classes.numpy(), golden.arrays[f"{key}/gt_classes"])
        kept_instances, kept = detection_utils.filter_empty_instances(instances, return_mask=True)
        np.testing.assert_array_equal(kept.numpy(), golden.arrays[f"filter_empty_instances/{i}/kept"])
        assert len(kept_instances) == kept.sum()


def test_read_image(golden):
    keys = [key for key in golden.arrays if key.startswith("read_image/")]
    assert keys
    for key in keys:
        _, name, image_format = key.split("/")
        found = detection_utils.read_image(str(golden.folder / "read" / f"{name}.png"), format=image_format)
        np.testing.assert_array_equal(found, golden.arrays[key], err_msg=key)


def test_errors(golden, tmp_path):
    content = json.loads((golden.folder / "annotations.json").read_text(encoding="utf-8"))
    record = load(golden, NAME)[0]

    def load_changed(change) -> None:
        changed = deepcopy(content)
        change(changed["annotations"])
        (tmp_path / "changed.json").write_text(json.dumps(changed), encoding="utf-8")
        # A name, so that category ids are mapped: only then can one be unknown.
        load_coco_json(str(tmp_path / "changed.json"), str(tmp_path), NAME)

    calls = {
        "annotation id used twice": lambda: load_changed(lambda a: a[0].update(id=a[1]["id"])),
        "category id that is not in categories": lambda: load_changed(lambda a: a[0].update(category_id=10**6)),
        "dataset name that is not registered": lambda: DatasetCatalog.get("no_such_dataset"),
        "empty bbox": lambda: load_changed(lambda a: a[0].update(bbox=[])),
        "ignore is 1": lambda: load_changed(lambda a: a[0].update(ignore=1)),
        "image size differs from the record": lambda: DatasetMapper(False, augmentations=[], image_format="BGR")(
            {**record, "width": record["width"] + 1}
        ),
        "same name registered twice": lambda: DatasetCatalog.register(NAME, list),
    }
    assert set(calls) == set(golden.expected["errors"])
    for name, call in calls.items():
        names = golden.expected["errors"][name]
        expected = next(getattr(builtins, n) for n in names if hasattr(builtins, n))
        with pytest.raises(expected):
            call()
