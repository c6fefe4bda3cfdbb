import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, BoxMode, Instances
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

NAME = "coco_evaluator_test"
SIZE = (200, 300)
CLASSES = ["ship", "tank", "car"]
ID_MAP = {3: 0, 5: 1, 9: 2}


def random_ground_truth(num_images: int = 8, seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    annotations = []
    for image_id in range(num_images):
        for _ in range(rng.integers(0, 6)):
            x, y = rng.uniform(0, 100, 2)
            width, height = rng.uniform(5, 190), rng.uniform(5, 90)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(rng.choice(list(ID_MAP))),
                    "bbox": [x, y, width, height],
                    "area": width * height,
                    "iscrowd": int(rng.random() < 0.1),
                }
            )
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 200, "width": 300} for i in range(num_images)],
        "categories": [{"id": i, "name": CLASSES[k]} for i, k in ID_MAP.items()],
        "annotations": annotations,
    }


def register(folder: Path, ground_truth: dict, classes=CLASSES, id_map=ID_MAP) -> None:
    file = folder / "gt.json"
    file.write_text(json.dumps(ground_truth), encoding="utf-8")
    MetadataCatalog.get(NAME).set(
        json_file=str(file), thing_classes=list(classes), thing_dataset_id_to_contiguous_id=dict(id_map)
    )


@pytest.fixture(autouse=True)
def _forget():
    yield
    MetadataCatalog.pop(NAME, None)
    DatasetCatalog.pop(NAME, None)


def detections(boxes, scores, classes) -> Instances:
    instances = Instances(SIZE)
    instances.pred_boxes = Boxes(torch.as_tensor(np.array(boxes, dtype=np.float32).reshape(-1, 4)))
    instances.scores = torch.as_tensor(scores, dtype=torch.float32)
    instances.pred_classes = torch.as_tensor(classes, dtype=torch.int64)
    return instances


def noisy(ground_truth: dict, image_id: int, noise: float, id_map=ID_MAP) -> Instances:
    """Ground truth as detections, shifted by `noise` pixels on average."""
    rng = np.random.default_rng(image_id)
    found = [a for a in ground_truth["annotations"] if a["image_id"] == image_id and a["category_id"] in id_map]
    boxes = [[x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in found)]
    boxes = np.array(boxes).reshape(-1, 4) + rng.normal(0, noise, (len(found), 4))
    return detections(boxes, rng.random(len(found)), [id_map[a["category_id"]] for a in found])


def evaluate(ground_truth: dict, noise: float = 0.0, evaluator: COCOEvaluator | None = None, **kwargs) -> dict:
    evaluator = evaluator or COCOEvaluator(NAME, **kwargs)
    id_map = MetadataCatalog.get(NAME).thing_dataset_id_to_contiguous_id
    evaluator.reset()
    for image in ground_truth["images"]:
        output = {"instances": noisy(ground_truth, image["id"], noise, id_map)}
        evaluator.process([{"image_id": image["id"]}], [output])
    return evaluator.evaluate()


def test_perfect_detections_reach_100(tmp_path):
    ground_truth = random_ground_truth()
    register(tmp_path, ground_truth)
    results = evaluate(ground_truth)["bbox"]
    assert results["AP"] == pytest.approx(100)
    assert [results[f"AP-{name}"] for name in CLASSES] == pytest.approx([100] * 3)


def test_numbers_are_those_of_pycocotools_summary(tmp_path):
    ground_truth = random_ground_truth(seed=4)
    register(tmp_path, ground_truth)
    found = evaluate(ground_truth, noise=6, output_dir=str(tmp_path / "out"))["bbox"]
    coco = COCO(str(tmp_path / "gt.json"))
    coco.dataset["info"] = {}
    reference = COCOeval(coco, coco.loadRes(str(tmp_path / "out" / "coco_instances_results.json")), "bbox")
    reference.evaluate()
    reference.accumulate()
    reference.summarize()
    names = ["AP", "AP50", "AP75", "APs", "APm", "APl"]
    expected = [100 * value if value >= 0 else float("nan") for value in reference.stats[:6]]
    assert 0 < expected[0] < 100
    assert [found[name] for name in names] == pytest.approx(expected, nan_ok=True)


@pytest.mark.subset  # Detectron2 lets pycocotools print
def test_nothing_is_printed_and_tables_are_logged(tmp_path, capsys, caplog):
    caplog.set_level("INFO")
    ground_truth = random_ground_truth()
    register(tmp_path, ground_truth)
    evaluate(ground_truth)
    assert capsys.readouterr().out == ""
    assert "AP50" in caplog.text
    assert "AR@100" in caplog.text
    assert "tank" in caplog.text


def test_ground_truth_without_a_single_annotation_gives_nan(tmp_path, caplog):
    caplog.set_level("INFO")
    register(tmp_path, random_ground_truth() | {"annotations": []})
    evaluator = COCOEvaluator(NAME)
    evaluator.reset()
    evaluator.process([{"image_id": 0}], [{"instances": detections([[1, 2, 30, 40]], [0.5], [1])}])
    results = evaluator.evaluate()["bbox"]
    assert set(results) == {"AP", "AP50", "AP75", "APs", "APm", "APl", *(f"AP-{name}" for name in CLASSES)}
    assert np.isnan(list(results.values())).all()
    assert "NaN" in caplog.text


def test_no_detections_give_nan_and_a_warning(tmp_path, caplog):
    ground_truth = random_ground_truth()
    register(tmp_path, ground_truth)
    evaluator = COCOEvaluator(NAME, output_dir=str(tmp_path / "out"))
    evaluator.reset()
    evaluator.process([{"image_id": 0}], [{"instances": detections([], [], [])}])
    assert np.isnan(evaluator.evaluate()["bbox"]["AP"])
    assert any(record.levelname == "WARNING" for record in caplog.records)
    assert json.loads((tmp_path / "out" / "coco_instances_results.json").read_text()) == []


def test_withheld_annotations_give_a_result_file_alone(tmp_path):
    ground_truth = random_ground_truth()
    register(tmp_path, {k: v for k, v in ground_truth.items() if k != "annotations"})
    assert evaluate(ground_truth, output_dir=str(tmp_path / "out")) == {}
    written = json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())
    assert len(written) == len(ground_truth["annotations"])


@pytest.mark.subset  # Detectron2 0.6 takes them for none
def test_detections_of_another_data_set_are_an_error(tmp_path):
    register(tmp_path, random_ground_truth(num_images=3))
    evaluator = COCOEvaluator(NAME)
    evaluator.reset()
    evaluator.process([{"image_id": 77}], [{"instances": detections([], [], [])}])
    with pytest.raises(ValueError, match=r"77.*gt\.json"):
        evaluator.evaluate()


@pytest.mark.subset  # Detectron2 0.6 wants as many names as the file has categories
@pytest.mark.parametrize("id_map", [{3: 0, 9: 1}, {9: 0, 3: 1}])
def test_a_part_of_the_classes_in_any_order(tmp_path, id_map):
    """Classes that the metadata leaves out do not count, and names go with the right numbers."""
    ground_truth = random_ground_truth()
    names = [CLASSES[ID_MAP[i]] for i in sorted(id_map, key=id_map.get)]
    register(tmp_path, ground_truth, names, id_map)
    evaluator = COCOEvaluator(NAME)
    evaluator.reset()
    worst = {"ship": 12.0, "car": 0.0}
    for image in ground_truth["images"]:
        both = [noisy(ground_truth, image["id"], worst[n], {i: k}) for i, k in id_map.items() for n in [names[k]]]
        evaluator.process([{"image_id": image["id"]}], [{"instances": Instances.cat(both)}])
    results = evaluator.evaluate()["bbox"]
    assert {name for name in results if "-" in name} == {"AP-ship", "AP-car"}
    assert results["AP-car"] == pytest.approx(100)
    assert results["AP-ship"] < 90
    assert results["AP"] == pytest.approx((results["AP-car"] + results["AP-ship"]) / 2)


def test_more_class_names_than_categories_is_an_error(tmp_path):
    ground_truth = random_ground_truth()
    register(tmp_path, ground_truth)
    MetadataCatalog.pop(NAME)
    MetadataCatalog.get(NAME).set(json_file=str(tmp_path / "gt.json"), thing_classes=[*CLASSES, "bus"])
    evaluator = COCOEvaluator(NAME)
    evaluator.reset()
    evaluator.process([{"image_id": 0}], [{"instances": detections([[1, 2, 30, 40]], [0.5], [3])}])
    with pytest.raises(AssertionError):
        evaluator.evaluate()


def test_records_of_a_function_are_converted(tmp_path):
    box = {"bbox": [10, 20, 50, 80], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1}
    record = {"file_name": "a.png", "height": 200, "width": 300, "image_id": 4, "annotations": [box]}
    DatasetCatalog.register(NAME, lambda: [record])
    MetadataCatalog.get(NAME).set(thing_classes=["ship", "tank"])
    with pytest.raises(ValueError, match="output_dir"):
        COCOEvaluator(NAME)
    evaluator = COCOEvaluator(NAME, output_dir=str(tmp_path))
    evaluator.reset()
    evaluator.process([{"image_id": 4}], [{"instances": detections([[10, 20, 50, 80]], [0.5], [1])}])
    results = evaluator.evaluate()["bbox"]
    assert results["AP-tank"] == pytest.approx(100)
    assert (tmp_path / f"{NAME}_coco_format.json").exists()


@pytest.mark.subset
def test_masks_keypoints_and_proposals_are_not_here(tmp_path):
    register(tmp_path, random_ground_truth())
    with pytest.raises(NotImplementedError, match=r"segm.*installed Detectron2"):
        COCOEvaluator(NAME, tasks=("bbox", "segm"))
    evaluator = COCOEvaluator(NAME)
    with pytest.raises(NotImplementedError, match="proposals"):
        evaluator.process([{"image_id": 0}], [{"proposals": detections([], [], [])}])
    instances = detections([[1, 2, 3, 4]], [0.5], [0])
    instances.pred_masks = torch.zeros(1, 2, 2)
    with pytest.raises(NotImplementedError, match="pred_masks"):
        evaluator.process([{"image_id": 0}], [{"instances": instances}])
    with pytest.raises(ImportError, match="LVISEvaluator"):
        from detectron2.evaluation import LVISEvaluator  # noqa: F401


def test_a_second_round_starts_empty(tmp_path):
    ground_truth = random_ground_truth()
    register(tmp_path, ground_truth)
    evaluator = COCOEvaluator(NAME)
    first = evaluate(ground_truth, 6, evaluator)
    assert 0 < first["bbox"]["AP"] < 100
    assert evaluate(ground_truth, 6, evaluator) == first


def _evaluate_share(rank: int, world_size: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world_size)
    ground_truth = json.loads(Path(folder, "gt.json").read_text(encoding="utf-8"))
    register(Path(folder, str(rank)), ground_truth)
    mine = ground_truth | {"images": ground_truth["images"][rank::world_size]}
    results = evaluate(mine, noise=6.0, output_dir=str(Path(folder, "out")))
    Path(folder, f"{rank}.json").write_text(json.dumps(results))
    dist.destroy_process_group()


def test_two_processes_give_what_one_gives(tmp_path):
    ground_truth = random_ground_truth(seed=2)
    register(tmp_path, ground_truth)
    expected = evaluate(ground_truth, noise=6.0)
    for rank in range(2):
        (tmp_path / str(rank)).mkdir()
    mp.spawn(_evaluate_share, args=(2, str(tmp_path)), nprocs=2)
    found = json.loads((tmp_path / "0.json").read_text())
    assert found["bbox"] == pytest.approx(expected["bbox"], nan_ok=True)
    assert json.loads((tmp_path / "1.json").read_text()) == {}
    written = json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())
    assert len(written) == len(ground_truth["annotations"])
