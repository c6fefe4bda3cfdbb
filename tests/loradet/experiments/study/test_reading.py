"""A study reads its configs: what its tables say of an entry is what is trained; what is typed has to agree."""

import re
from pathlib import Path

import pytest
import yaml
from helpers.engine_study import leave_record

from loradet.cli.study import main
from loradet.errors import UserError
from loradet.experiments.factors.design import design
from loradet.experiments.running.planning import plan
from loradet.experiments.study import Entry, Study, find_studies, load_study, read_study
from loradet.experiments.study.reading import ConfigReader

QUICKSTART = "configs/quickstart.py"
RANK = "model.backbone.bottom_up.rank"
SAR, ATTO = "ConvNeXt-S + FPN + RetinaNet", "ConvNeXt-Atto + narrow FPN + RetinaNet"
ASSET = "asset://convnext_atto_synthetic.safetensors"
DINOV3 = "convnext_small.dinov3_lvd1689m, pretrained"
SUPERVISED, IMAGENET = "convnext_small, ImageNet with labels", "torchvision's ResNet-50"
WITHOUT, WHOLE = "LoRA + stage 3 without its wrapped layers", "LoRA + whole stage 3"
VIM = (
    "ViM-Tiny + SimpleFeaturePyramid + Cascade R-CNN",
    "vim_tiny_pretrained.pth (ImageNet with labels)",
    *("frozen backbone", "", None, None),
)
CROWD = ("DINOv3 ViT-L/16 + DETR", "vit_large_patch16_dinov3.lvd1689m, pretrained", "frozen backbone", "", None, None)
# What the tables said while the studies typed it: model, weights, method, targets, rank, alpha, and levels of factors.
RECORDED = {
    "sar_lora_dino": {
        "E0001": (
            *("ResNet-50 + FPN + RetinaNet", "resnet50.tv_in1k, torchvision's ImageNet weights"),
            *("partly unfrozen", "", None, None),
        ),
        "E0002": (SAR, DINOV3, "LoRA", "mlp.fc1+fc2", 16, 32.0),
        "E0003": (SAR, DINOV3, "linear probe", "", None, None),
        "E0008": (SAR, SUPERVISED, "linear probe", "", None, None),
        "E0011": ("", "", "", "", None, None),
        "E0014": (SAR, DINOV3, WITHOUT, "mlp.fc1+fc2", 4, 8.0),
        "E0020": (SAR, SUPERVISED, "full", "", None, None),
        "E0024": (SAR, "none (convnext_small at random)", "LoRA", "mlp.fc1", 16, 32.0),
        "E1018": (SAR, DINOV3, WHOLE, "mlp.fc2", 8, 16.0),
    },
    "sar_lora_dino/mini": {
        "mini_probe": (ATTO, ASSET, "linear probe", "", None, None),
        "mini_r8_fc2": (ATTO, ASSET, "LoRA", "mlp.fc2", 8, 16.0),
        "mini_r16_fc1fc2_stage3": (ATTO, ASSET, WITHOUT, "mlp.fc1+fc2", 16, 32.0),
        "mini_dora_r16": (ATTO, ASSET, "DoRA", "mlp.fc1+fc2", 16, 32.0),
        "mini_mona": (ATTO, ASSET, "Mona", "", 54, 54.0),
        "mini_full_tuning": (ATTO, ASSET, "full", "", None, None),
    },
    "adapters_bccd": {
        "bccd_norms": (ATTO, ASSET, "norms", "", None, None),
        "bccd_rslora_r16": (ATTO, ASSET, "rsLoRA", "mlp.fc1+fc2", 16, 16.0),
        "bccd_dora_r16": (ATTO, ASSET, "DoRA", "mlp.fc1+fc2", 16, 32.0),
        "bccd_mona": (ATTO, ASSET, "Mona", "", 54, 54.0),
        "bccd_full": (ATTO, ASSET, "full", "", None, None),
    },
    "crowd_detr": {"crowd_without_encoder": CROWD},
    "vim_ofat": {
        "ofat_baseline_lr0.001_bs8_adamw_ep100": (*VIM, {"lr": 0.001, "batch": 8, "optimizer": "AdamW", "epochs": 100}),
        "ofat_lr0.001_bs8_rmsprop_ep100": (*VIM, {"lr": 0.001, "batch": 8, "optimizer": "RMSProp", "epochs": 100}),
        "ofat_lr0.001_bs8_adamw_ep150": (*VIM, {"lr": 0.001, "batch": 8, "optimizer": "AdamW", "epochs": 150}),
    },
    "vim_ofat/mini": {
        "mini_lr0.01_bs32_sgd": (
            *(ATTO, ASSET, "LoRA", "mlp.fc1+fc2", 16, 32.0),
            {"lr": 0.01, "batch": 32, "optimizer": "SGD"},
        ),
    },
    "coco_detr_lora": {
        "fasterrcnn_r50_fpn_baseline": ("Faster R-CNN R50-FPN", "random", "full", "", None, None),
        "detr_r50_partial_unfreeze": ("DETR-R50", "random", "partly unfrozen", "", None, None),
        "detr_r50_lora_only_r8_attn_ffn": ("DETR-R50", "random", "LoRA", "attn+ffn", 8, 16.0),
    },
    "coco_detr_lora/imagenet": {"imagenet_detr_r50_full": ("DETR-R50", IMAGENET, "full", "", None, None)},
    "coco_detr_lora/synthetic": {
        "synthetic_detr_r50_lora_only_r4_attn": ("DETR-R50", "random", "LoRA", "attn", 4, 8.0)
    },
    "coco_detr_lora/synthetic_imagenet": {
        "synthetic_imagenet_fasterrcnn_r50_fpn_baseline": ("Faster R-CNN R50-FPN", IMAGENET, "full", "", None, None)
    },
    "coco_detr_lora/smoke": {"smoke_detr_r50_full": ("detr", "random", "full", "", None, None)},
}


def entry(id="a", **values):
    return Entry(**{"id": id, "title": id, "objective": "try", "config": QUICKSTART, **values})


def study(*entries, **values):
    return Study(**{"name": "mine", "title": "T", "entries": entries, **values})


def shown(one):
    fields = (one.model, one.weights, one.method, one.targets, one.rank, one.alpha)
    return (*fields, dict(one.factors)) if one.factors else fields


@pytest.mark.parametrize("name", RECORDED)
def test_the_tables_say_of_the_project_s_studies_what_they_said(name):
    found = load_study(name)
    reader = ConfigReader(found)
    entries = [reader.entry(found.entry(id)) for id in RECORDED[name]]
    assert {entry.id: shown(entry) for entry in entries} == RECORDED[name]
    for entry in entries:
        assert list(entry.factors) == list(found.factors)
        if rank := re.search(r"\br=(\d+)", entry.title):
            assert int(rank[1]) == entry.rank


def test_every_study_of_the_project_is_recorded_and_types_nothing_that_its_configs_say():
    studies = [load_study(file) for file in find_studies()]
    assert {one.name for one in studies} == RECORDED.keys()
    for one in studies:
        assert {shown(entry) for entry in one.entries} == {("", "", "", "", None, None)}, one.name


def write(folder, *entries, **values):
    content = {"name": "mine", "title": "Mine", "entries": [{"title": "T", "objective": "try", **e} for e in entries]}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.yaml").write_text(yaml.safe_dump({**content, **values}))
    return folder


def row(id="a", rank=None, **values):
    words = [] if rank is None else [f"{RANK}={rank}", f"model.backbone.bottom_up.alpha={2.0 * rank}"]
    return {"id": id, "config": QUICKSTART, "overrides": words, **values}


def told(capsys, folder, *words, status=0):
    """What the command prints: its answer, or the one line of an error."""
    try:
        code = main(["--study", str(folder), "--work-dirs", str(folder / "runs"), *words])
    except SystemExit as stop:  # which the interpreter would print
        code = 1
        print(stop.code)
    found = capsys.readouterr()
    assert code == status, found.out + found.err
    return found.out


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ({"rank": 99}, ["entry a: rank is 99", f"{QUICKSTART} says 16", "change one of the two"]),
        ({"rank": 16, "alpha": 8.0}, ["alpha is 8.0", "says 32.0"]),
        ({"method": "full"}, ["method is 'full'", "says 'LoRA'", "labels={'LoRA': 'full'}"]),
        ({"targets": "mlp.fc1"}, ["targets is 'mlp.fc1'", "says 'mlp.fc1+fc2'"]),
        ({"weights": "ImageNet"}, ["weights is 'ImageNet'", f"says '{ASSET}'"]),
        ({"model": "ResNet-50"}, ["model is 'ResNet-50'", "says 'ConvNeXt-Atto + FPN + RetinaNet'"]),
        ({"config": "configs/quickstart_linear_probe.py", "rank": 16}, ["rank is 16", "linear_probe.py says nothing"]),
        ({"overrides": [f"{RANK}=4"], "rank": 16}, ["rank is 16", "with its overrides says 4"]),
    ],
)
def test_a_study_that_disagrees_with_its_config_does_not_load(tmp_path, capsys, typed, words):
    folder = write(tmp_path, {**row(), **typed})
    answer = told(capsys, folder, "list", status=1)
    assert answer.startswith("error: Study mine, entry a: ") and answer.count("\n") == 1
    assert all(word in answer for word in words), answer


def test_what_is_typed_and_agrees_is_taken(tmp_path):
    labels = {"LoRA": "adapters"}
    for method in ("LoRA", "adapters"):
        typed = dict(rank=16, alpha=32, targets="mlp.fc1+fc2", method=method, weights=ASSET)
        (found,) = read_study(load_study(write(tmp_path / method, {**row(), **typed}, labels=labels))).entries
        assert (found.rank, found.alpha, found.method) == (16, 32.0, "adapters")


def test_show_tells_what_the_config_has(tmp_path, capsys):
    folder = write(tmp_path, row(rank=4), labels={"ConvNeXt-Atto + FPN + RetinaNet": "our detector"})
    lines = {" ".join(line.split()) for line in told(capsys, folder, "show", "a").splitlines()}
    assert {"Model our detector", f"Weights {ASSET}", "Adaptation LoRA, mlp.fc1+fc2, rank 4, alpha 8"} <= lines


def test_a_report_has_what_the_configs_have(tmp_path, capsys):
    """Rows of `report.tsv`, also of entries without a run."""
    folder = write(tmp_path, row(), row("b", rank=4), factors={"rank": "rank"})
    told(capsys, folder, "report")
    head, *rows = (line.split("\t") for line in (folder / "runs/mine_report/report.tsv").read_text().splitlines())
    found = [dict(zip(head, one)) for one in rows]
    assert [(one["id"], one["rank"], one["alpha"], one["method"]) for one in found] == [
        ("a", "16", "32.0", "LoRA"),
        ("b", "4", "8.0", "LoRA"),
    ]


def test_levels_are_read_by_their_keys():
    keys = {
        "lr": "optimizer.lr",
        "optimizer": "optimizer._target_",
        "epochs": "train.max_iter",
        "flip": "dataloader.train.mapper.augmentations.1.horizontal",
        "layers": "model.backbone.bottom_up.targets",
        "size": "data.image_size",
        "adaptation": "method",
        "schedule": "lr_multiplier",
    }
    one = entry(overrides=("train.max_iter=1.5 epochs", "model.backbone.bottom_up.targets=[mlp.fc1]"))
    (found,) = read_study(study(one, factors=keys)).entries
    assert dict(found.factors) == {
        "lr": 0.001,
        "optimizer": "AdamW",
        "epochs": 1.5,
        "flip": "true",
        "layers": "mlp.fc1",
        "size": 192,
        "adaptation": "LoRA",
        "schedule": "warmup",
    }
    # A number of iterations is no number of epochs, whatever the other entries have.
    (found,) = read_study(study(entry(), factors={"length": "train.max_iter"})).entries
    assert found.factors == {"length": "400 iterations"}


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("optimizer.lrr", ["factor f: optimizer.lrr is no key", "optimizer.lr"]),
        ("train.clip_grad.norm", ["train.clip_grad.norm is no key", "train.clip_grad.norm_type"]),
        ("train.wandb.project", ["train.wandb.project is null"]),
        ("data.root.x", ["factor f: data.root.x"]),
        ("train.amp", ["train.amp is a part with keys", "enabled"]),
    ],
)
def test_a_factor_that_a_config_does_not_have_is_named(key, words):
    with pytest.raises(UserError) as caught:
        design(study(entry(), entry("b"), factors={"f": key}))
    assert str(caught.value).startswith(f"Study mine, entry a: {QUICKSTART}: factor f: ")
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_typed_level_has_to_be_the_config_s(tmp_path):
    rows = [row("a", factors={"lr": 0.001}), {**row("b", factors={"lr": 0.1}), "overrides": ["optimizer.lr=0.01"]}]
    with pytest.raises(UserError, match=r"entry b: factor lr is 0\.1, but .* with its overrides says 0\.01"):
        load_study(write(tmp_path, *rows, factors={"lr": "optimizer.lr"}))


def test_a_level_without_a_key_is_the_study_s_own(tmp_path):
    """What no key holds is typed; it stands beside those that are read."""
    rows = [
        row("a", factors={"day": "first"}),
        {**row("b", factors={"day": "second"}), "overrides": ["optimizer.lr=0.01"]},
    ]
    found = design(load_study(write(tmp_path, *rows, factors={"lr": "optimizer.lr"})))
    assert found.factors == {"lr": (0.001, 0.01), "day": ("first", "second")}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"factors": ["lr"]}, ["factors=['lr']", "keys of the config"]),
        ({"factors": {"lr": 3}}, ["factors has 'lr': 3"]),
        ({"labels": {"LoRA": ""}}, ["labels has 'LoRA': ''"]),
    ],
)
def test_factors_and_labels_are_texts(values, words):
    with pytest.raises(UserError) as caught:
        study(entry(), **values)
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_label_of_what_no_config_says_is_named(tmp_path):
    trial = study(entry(overrides=(f"data.root={tmp_path}",)), labels={"LORA": "adapters"})
    with pytest.raises(UserError, match=r"labels name 'LORA', which no config .* they say: .*'LoRA'"):
        plan(trial, root=tmp_path)


def test_listing_reads_no_config(tmp_path, capsys):
    """The config is broken, and only what needs it says so."""
    broken = tmp_path / "broken.py"
    broken.write_text("model = (")
    folder = write(tmp_path / "study", {**row(), "config": str(broken)})
    assert "a  " in told(capsys, folder, "list")
    assert f"Entry a: Config file {broken}, line 1" in told(capsys, folder, "show", "a", status=1)


def test_a_study_of_another_name_with_the_same_id_has_folders_of_its_own(tmp_path, monkeypatch):
    config = str(Path(QUICKSTART).resolve())
    mine, yours = ({**row(), "config": config}, {**row(rank=4), "config": config})
    write(tmp_path / "configs" / "mine", mine)
    monkeypatch.chdir(tmp_path)

    def run(study):
        (found,) = plan(load_study(study), root=tmp_path)
        return found

    alone = run("mine")
    assert alone.name == "a_full"
    write(tmp_path / "configs" / "yours", yours, name="yours, too")
    other = run("yours")
    assert (run("mine").name, other.name) == ("a@mine_full", "a@yours_too_full")
    assert f"train.output_dir={tmp_path}/a@yours_too_full" in other.overrides
    # A run that is there already stays where it is, and is that study's alone.
    leave_record(alone)
    assert (run("mine").name, run("yours").name) == ("a_full", "a@yours_too_full")
    # So does one of the long name when the other study has gone.
    (tmp_path / "a@yours_too_full").mkdir()
    (tmp_path / "configs" / "mine" / "study.yaml").unlink()
    assert run("yours").name == "a@yours_too_full"
