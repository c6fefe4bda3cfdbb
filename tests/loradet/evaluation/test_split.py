"""A split of a config's data is read once, whatever is asked of it."""

import json

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.evaluation import COCOEvaluator, DatasetEvaluators
from detectron2.structures import Boxes, Instances

from loradet.config import load_config
from loradet.datasets import coco_dataset
from loradet.datasets.synthetic import generate
from loradet.errors import UserError
from loradet.evaluation import Split
from loradet.evaluation.split import build_splits

CONFIG = "tests/configs/tiny.py"


@pytest.fixture(scope="module")
def cfg(tmp_path_factory):
    root = generate(tmp_path_factory.mktemp("data"), size=64, counts={"train": 2, "val": 4, "test": 3})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORADET_CACHE", str(root / "cache"))
        yield load_config(CONFIG, [f"data.root={root}", "data.name=read_once", "train.eval_splits=[test,val]"])


class Oracle(torch.nn.Module):
    """Finds what is annotated."""

    def __init__(self, records):
        super().__init__()
        self.truth = {record["image_id"]: record["annotations"] for record in records}

    def forward(self, batch):
        found = []
        for item in batch:
            truth = self.truth[item["image_id"]]
            boxes = torch.tensor([annotation["bbox"] for annotation in truth], dtype=torch.float32).reshape(-1, 4)
            boxes[:, 2:] += boxes[:, :2]
            instances = Instances((item["height"], item["width"]), pred_boxes=Boxes(boxes))
            instances.pred_classes = torch.tensor([annotation["category_id"] for annotation in truth])
            instances.scores = torch.ones(len(truth))
            found.append({"instances": instances})
        return found


def test_the_data_set_is_read_once(cfg, tmp_path, monkeypatch):
    calls = []

    def counting(**arguments):
        calls.append(arguments["json_file"])
        return coco_dataset(**arguments)

    monkeypatch.setattr(f"{__name__}.counting", counting, raising=False)
    monkeypatch.setitem(cfg.dataloader.val.dataset, "_target_", counting)
    split = Split(cfg, "val")
    assert len(split.records) == 4 == sum(len(batch) for batch in split.loader)
    model = Oracle(split.records).eval()
    for _ in range(2):
        assert split.evaluate(model, tmp_path)["bbox"]["AP"] == pytest.approx(100)
    assert split.loader is split.loader and split.evaluator(tmp_path) is split.evaluator(tmp_path)
    assert len(calls) == 1
    metrics = split.write_metrics(tmp_path, checkpoint="oracle.pth", iteration=3)
    assert metrics["coco/bbox_mAP"] == pytest.approx(1)
    written = json.loads((tmp_path / "val_metrics.json").read_text())
    assert (written["checkpoint"], written["iteration"], written["data"]) == ("oracle.pth", 3, "synthetic")
    assert len(calls) == 1


def test_what_it_knows_is_that_of_its_data(cfg):
    splits = build_splits(cfg)
    assert list(splits) == ["test", "val"]
    test = splits["test"]
    assert test.classes[:2] == ["ship", "aircraft"] and test.synthetic
    assert test.annotations.name.startswith("test") and len(test.records) == 3


def test_splits_do_not_mix_and_folders_neither(cfg, tmp_path):
    splits = build_splits(cfg)
    for name, split in splits.items():
        split.evaluate(Oracle(split.records).eval(), tmp_path / "a")
        assert {d["image_id"] for d in json.loads(split.files(tmp_path / "a").predictions.read_text())} <= {
            record["image_id"] for record in split.records
        }
        assert split.files(tmp_path / "a").predictions.parent.name == name
    assert splits["val"].files(tmp_path / "b") is None
    assert splits["val"].write_metrics(tmp_path / "b", checkpoint="", iteration=None) == {}


def test_several_evaluators_start_anew_each_time(cfg, tmp_path):
    cfg = load_config(CONFIG, [f"data.root={cfg.data.root}", "data.name=read_once"])
    cfg.dataloader.evaluator = L(DatasetEvaluators)(evaluators=[L(COCOEvaluator)(dataset_name="???", tasks=("bbox",))])
    split = Split(cfg, "val")
    found = [split.evaluate(Oracle(records).eval(), tmp_path) for records in (split.records, _emptied(split.records))]
    assert found[0]["bbox"]["AP"] == pytest.approx(100) and not found[1]["bbox"]["AP"] > 0


def _emptied(records):
    return [{**record, "annotations": []} for record in records]


def test_a_split_that_is_not_there_is_named(cfg):
    with pytest.raises(UserError, match=r"no dataloader\.valid; it has: .*val"):
        Split(cfg, "valid")
