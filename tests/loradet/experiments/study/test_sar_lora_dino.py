"""The study SAR-LoRA-DINO: every config builds, trains what the published table says, with its hyperparameters."""

import json
from functools import cache
from pathlib import Path

import detectron2.data.transforms as T
import pytest
import torch
from detectron2.config import instantiate

from loradet.adapters import parameter_table
from loradet.config import load_config
from loradet.config.edits import without_weights
from loradet.experiments.running.planning import plan
from loradet.experiments.study.catalogue import load_study
from loradet.experiments.study.reading import ConfigReader

PUBLISHED = json.loads(Path("configs/sar_lora_dino/reported.json").read_text())
NECK, HEAD = 4.475, 4.928
# Rows that the published table does not have, in millions.
ALL = dict(E0021=10.486, E0022=11.569, E0023=10.486, E0024=10.486, E0025=58.856)
ALL |= dict(E1007=27.039, E1014=25.415, E1015=25.956, E1016=25.956, E1017=25.144, E1018=25.415)
LEDGER = [f"E{number:04}" for number in [*range(1, 9), *range(10, 26)]]
WHOLE_STAGE = ["E1007", "E1014", "E1015", "E1016", "E1017", "E1018"]
PICTURES = {"E0010": {"E0003", "E0008"}, "E0011": {"E0002", "E0004", "E0005", "E0006", "E0007"}}
TRAINED = [id for id in [*LEDGER, *WHOLE_STAGE] if id not in PICTURES]
# rank, layers, what trains besides
LORA = {
    "E0002": (16, "fc1 fc2", []),
    "E0004": (16, "fc2", []),
    "E0005": (4, "fc1 fc2", []),
    "E0006": (8, "fc1 fc2", []),
    "E0007": (16, "fc1 fc2", ["stages_3"]),
    "E0012": (4, "fc2", []),
    "E0013": (8, "fc2", []),
    "E0014": (4, "fc1 fc2", ["stages_3"]),
    "E0015": (8, "fc1 fc2", ["stages_3"]),
    "E0016": (16, "fc2", ["stages_3"]),
    "E0017": (4, "fc2", ["stages_3"]),
    "E0018": (8, "fc2", ["stages_3"]),
    "E0021": (16, "fc1", []),
    "E0022": (16, "fc1 fc2", []),
    "E0023": (16, "fc2", []),
    "E0024": (16, "fc1", []),
}
LORA |= {f"E1{id[2:]}": LORA[id] for id in ("E0007", "E0014", "E0015", "E0016", "E0017", "E0018")}
SUPERVISED, RANDOM = ("E0008", "E0020"), ("E0022", "E0023", "E0024", "E0025")


@pytest.fixture(scope="module")
def study():
    return load_study("sar_lora_dino")


@cache
def reader():
    return ConfigReader(load_study("sar_lora_dino"))


def config(id):
    entry = reader().study.entry(id)
    assert entry.overrides == ()  # one file says it all
    return reader().config(entry)


def expected_counts(id):
    """Trainable millions by part."""
    if id == "E0001":
        return {"backbone": 23.233, "neck": 7.997, "head": HEAD, "all": 36.158}
    if id in ALL:
        return {"neck": NECK, "head": HEAD, "all": ALL[id]}
    row = PUBLISHED["trainable_millions"][id]
    return {"backbone": row["backbone"], "neck": row["neck"], "head": row["head"], "all": row["total"]}


@pytest.mark.parametrize("id", TRAINED)
def test_trainable_parameters_are_those_of_the_table(id, study):
    with torch.device("meta"):  # no value is looked at
        counts = parameter_table(instantiate(without_weights(config(id).model))).to_dict()
    for part, millions in expected_counts(id).items():
        assert counts[part]["trainable"] / 1e6 == pytest.approx(millions, abs=0.001), part
    # What the engine checks of every run is the same.
    checked = study.entry(id).checks["trainable"]
    for part in ("backbone", "neck", "head", "all"):
        assert counts[part]["trainable"] / 1e6 == pytest.approx(checked[part], abs=0.001), part


def test_the_ledger_is_whole(study):
    ids = [entry.id for entry in study.entries]
    assert ids == [*LEDGER, *WHOLE_STAGE]
    for entry in study.entries:
        if entry.id in PICTURES:
            assert (entry.kind, set(entry.sources)) == ("pictures", PICTURES[entry.id])
            continue
        assert Path(entry.config).name.startswith(entry.id.lower())
        assert entry.seeds == ((0, 1, 2) if entry.id in ("E0002", "E0003") else (0,))
        assert entry.splits == (("val",) if entry.id == "E0001" else ("val", "test"))
        assert entry.smoke_only == (entry.id == "E0001")
        assert entry.objective
        assert entry.baselines or entry.id == "E0001"


@pytest.mark.slow
def test_runs_are_named_by_the_ledger(study, tmp_path):
    ids = ["E0001", "E0002", "E0005"]
    assert [run.name for run in plan(study, ids, root=tmp_path)] == [
        *("E0001_full", "E0002_full_seed0", "E0002_full_seed1", "E0002_full_seed2", "E0005_full")
    ]
    assert [run.name for run in plan(study, ids, mode="smoke", root=tmp_path)] == [f"{id}_smoke" for id in ids]


def test_published_numbers_reach_the_entries(study):
    assert study.source == PUBLISHED["source"]
    assert sum(len(entry.reported) for entry in study.entries) == sum(map(len, PUBLISHED["reported"].values()))
    for id, rows in PUBLISHED["reported"].items():
        for row, reported in zip(rows, study.entry(id).reported, strict=True):
            assert (reported.split, reported.seed) == (
                row["split"],
                None if row["run"] is None else int(row["run"][-1]),
            )
            assert reported.metrics == {f"coco/{key}": v for key, v in row.items() if key.startswith("bbox_mAP")}


@pytest.mark.parametrize("id", TRAINED)
def test_what_is_adapted_and_from_which_weights(id, study):
    entry, bottom_up = reader().entry(study.entry(id)), config(id).model.backbone.bottom_up
    backbone = bottom_up
    while "module" in backbone:
        backbone = backbone.module
    if id == "E0001":
        assert (backbone.model_name, backbone.pretrained) == ("resnet50.tv_in1k", True)
        return
    assert backbone.model_name.partition(".")[0] == "convnext_small"
    assert backbone.pretrained is (id not in RANDOM)
    if id not in RANDOM:
        assert ("dinov3_lvd1689m" in backbone.model_name) is (id not in SUPERVISED)
    assert list(backbone.out_features) == ["stage1", "stage2", "stage3"]
    if id in LORA:
        rank, layers, unfrozen = LORA[id]
        assert (bottom_up.rank, bottom_up.alpha, bottom_up.dropout) == (rank, 2.0 * rank, 0.0)
        assert list(bottom_up.targets) == [f"mlp.{layer}" for layer in layers.split()]
        assert list(bottom_up.module.unfreeze) == unfrozen
        assert bottom_up.freeze_base is (id not in WHOLE_STAGE)
        assert (entry.rank, entry.alpha) == (rank, 2.0 * rank)
        assert entry.targets == "mlp." + "+".join(layers.split())
    elif id in ("E0003", "E0008"):
        assert list(bottom_up.unfreeze) == []
    else:
        assert bottom_up is backbone  # everything trains


@pytest.mark.parametrize("id", TRAINED)
def test_hyperparameters_are_those_of_the_study(id):
    cfg = config(id)
    first = id == "E0001"
    data, model, train = cfg.data, cfg.model, cfg.train
    assert list(data.classes) == ["ship", "aircraft", "car", "tank", "bridge", "harbor"]
    for split in ("train", "val", "test"):
        loader = cfg.dataloader[split]
        resize, *others = loader.mapper.augmentations
        assert resize._target_ is T.Resize
        assert list(resize.shape) == [800, 800]  # both sides: the ratio is not kept
        flips = [flip._target_ is T.RandomFlip and flip.get("prob", 0.5) for flip in others]
        assert flips == ([0.5] if split == "train" else [])
    dataset = cfg.dataloader.train.dataset
    assert (dataset.min_size, dataset.filter_empty) == (16, True)

    assert cfg.dataloader.train.total_batch_size == (16 if first else 64)
    assert train.amp.enabled is not first
    assert (train.max_iter, list(train.eval_splits)) == ("12 epochs", ["val", "test"])
    assert train.best == {"metric": "bbox/AP", "mode": "max"}
    optimizer = cfg.optimizer
    if first:
        assert optimizer._target_ is torch.optim.SGD
        assert (optimizer.lr, optimizer.momentum, optimizer.weight_decay) == (0.02, 0.9, 1e-4)
    else:
        assert optimizer._target_ is torch.optim.AdamW
        assert (optimizer.lr, list(optimizer.betas), optimizer.weight_decay) == (1e-4, [0.9, 0.999], 0.05)

    assert (model.focal_loss_alpha, model.focal_loss_gamma, model.smooth_l1_beta) == (0.25, 2.0, 0.0)
    assert model.test_score_thresh == (0.0 if first else 0.05)
    assert (model.test_nms_thresh, model.test_topk_candidates, model.max_detections_per_image) == (0.5, 1000, 100)
    assert list(model.pixel_mean) == [123.675, 116.28, 103.53]
    assert list(model.pixel_std) == [58.395, 57.12, 57.375]
    assert model.input_format == "RGB"
    neck = model.backbone
    assert (neck.out_channels, neck.extra_levels, neck.extra_from) == (256, 2, None)
    assert list(neck.in_features) == ["stage1", "stage2", "stage3"]  # the last of which P6 and P7 are made from


def test_the_learning_rate_warms_up_and_falls_twice():
    """500 iterations from a thousandth; a tenth after 8 and again after 11 of 12 epochs."""
    cfg = config("E0002").copy()
    cfg.train.max_iter = 12_000
    multiplier = instantiate(cfg.lr_multiplier)
    values = [multiplier(iteration / 12_000) for iteration in range(12_000)]
    assert values[0] == pytest.approx(0.001)
    assert values[250] == pytest.approx(0.5005, abs=1e-3)
    assert all(value == 1.0 for value in values[500:8_000])
    assert values[8_000:11_000] == pytest.approx([0.1] * 3_000)
    assert values[11_000:] == pytest.approx([0.01] * 1_000)


def test_the_data_are_found_by_the_environment(monkeypatch):
    for value, root in ((None, "datasets/sardet100k"), ("/data/sardet", "/data/sardet")):
        if value is None:
            monkeypatch.delenv("SARDET100K_ROOT", raising=False)
        else:
            monkeypatch.setenv("SARDET100K_ROOT", value)
        data = load_config("configs/sar_lora_dino/e0003_linear_probe.py", []).data
        assert data.train_json == f"{root}/Annotations/train.json"
        assert data.test_images == f"{root}/JPEGImages/test"


def test_fewer_gpus_keep_the_batch():
    from loradet.training.plan import plan_batch

    cfg = config("E0019")
    for num_gpus in (1, 2, 4, 8):
        batch = plan_batch(cfg.dataloader.train.total_batch_size, num_gpus, 1, cfg.train.max_batch_per_gpu)
        assert batch.per_forward * num_gpus * batch.accumulate == 64
        assert batch.per_forward <= cfg.train.max_batch_per_gpu
