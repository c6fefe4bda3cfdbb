"""Damaged adapters, checkpoints and run files: an error of one line that names the file, or read for what they hold.

The functions behind the tools are called, in one process; a small part always, all of it with the slow tests.
"""

import copy
import json
import random
import shutil
import warnings
from collections import Counter
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig
from detectron2.data import DatasetCatalog
from helpers.run_file_faults import damaged_bytes, dumped, odd_header, odd_json
from helpers.train_tool import CONFIG
from omegaconf import OmegaConf

from loradet.adapters import (
    adapter_state,
    describe_adapter,
    export_run,
    load_adapter,
    merged_state_dict,
    read_adapter,
    save_adapter,
)
from loradet.adapters.files.adapter_file import METADATA_KEY
from loradet.adapters.files.peft_layout import export_peft
from loradet.backbones.weights import read_state_dict
from loradet.checkpoint import Checkpointer
from loradet.config import load_config
from loradet.errors import is_user_error, one_line
from loradet.experiments.pages.compare_runs import comparison
from loradet.experiments.running.config_changes import config_changes
from loradet.inference.classes import find_classes
from loradet.model import build_model, initial_model, load_trained
from loradet.run_folder import RunFolder
from loradet.training.earlier_run import is_finished
from loradet.training.folder.metrics_log import drop_lines_after, read_lines
from loradet.training.folder.record import run_identity

FAST, SLOW = 6, 60  # cases of each kind
RECORD = {
    "status": "finished",
    "seed": 0,
    "iteration": 7,
    "config_sha256": "0" * 64,
    "git_revision": "abc",
    "device": "CPU, 1 threads",
    "processes": 1,
    "versions": {"loradet": "0.1", "torch": "2"},
    "data": {"train": {"source": "train.json", "fingerprint": "ab", "num_images": 14, "num_classes": 6}},
    "iterations_per_epoch": 4,
    "parameters": {part: {"trainable": 1000, "total": 2000} for part in ("backbone", "neck", "head", "all")},
    "best": {"metric": "bbox/AP", "value": 12.5, "iteration": 7},
    "images_per_s": 10.5,
    "train_seconds": 2.5,
    "peak_memory_mb": 300.0,
    "wall_time_s": 5.0,
    "run_ids": {},
}
METRICS = {
    "coco/bbox_mAP": 0.5,
    "coco/bbox_mAP_50": 0.75,
    "coco/bbox_mAP/ship": None,
    "checkpoint": "model_best.pth",
    "iteration": 7,
    "split": "val",
    "data": "synthetic",
}


class Pieces:
    """A run's folder with random weights, and models to load files into."""

    def __init__(self, folder: Path, data: Path):
        self.folder = folder
        torch.manual_seed(0)
        self.cfg = load_config(CONFIG, [f"data.root={data}", f"train.output_dir={folder}", "train.device=cpu"])
        self.model = initial_model(self.cfg)
        self.blank = {name: torch.full_like(t, 7) for name, t in self.model.state_dict().items()}
        names = [f"class {i}" for i in range(6)]
        save_adapter(self.model, folder / "adapter.safetensors", classes=names, class_ids=list(range(1, 7)))
        for name in ("model_best.pth", "model_final.pth"):
            Checkpointer(self.model, folder).save(name.removesuffix(".pth"), only_model=True, iteration=7)
        resolved = copy.deepcopy(self.cfg)
        OmegaConf.resolve(resolved)
        LazyConfig.save(resolved, str(folder / "config.yaml"))
        (folder / "run.json").write_text(json.dumps(RECORD))
        (folder / "val_metrics.json").write_text(json.dumps(METRICS))
        (folder / "last_checkpoint").write_text("model_final.pth")
        lines = [{"iteration": i, "total_loss": 1.0, "lr": 0.1} for i in range(8)]
        (folder / "metrics.json").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture(scope="module")
def pieces(train_data, tmp_path_factory):
    before = set(DatasetCatalog.list())
    yield Pieces(tmp_path_factory.mktemp("fuzz"), train_data)
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)


def same(state, expected, names) -> None:
    for name in names:
        assert torch.equal(state[name], expected[name].to(state[name].dtype)), name


# What each door does with a folder; where it ends without an error, its result must be what the file says.


def load_the_adapter(pieces, folder):
    model = copy.deepcopy(pieces.model)
    file = folder / "adapter.safetensors"
    info = load_adapter(model, file)
    _, tensors = read_adapter(file)
    same(model.state_dict(), tensors, tensors)
    # The base is compared by the header's `frozen`; the recipe's own fingerprint is for people.
    without = [
        {path: {**r, "fingerprint": None} for path, r in rs.items()} for rs in (adapter_state(model), info["recipes"])
    ]
    assert without[0] == without[1]


def inspect_the_adapter(pieces, folder):  # noqa: ARG001
    text = describe_adapter(folder / "adapter.safetensors")
    info, tensors = read_adapter(folder / "adapter.safetensors")
    assert f"{len(tensors)}, " in text and all(name in text for name in info["classes"] or [])


def export_the_adapter(pieces, folder):  # noqa: ARG001
    output = export_run(folder, folder / "out.safetensors")
    ours, theirs = read_adapter(output), read_adapter(folder / "adapter.safetensors")
    same(ours[1], theirs[1], theirs[1])
    assert ours[0]["classes"] == theirs[0]["classes"]
    assert ours[0]["metadata"]["seed"] == RunFolder(folder).read_record().get("seed", 0)
    export_peft(output, folder / "peft")


def classes_of_the_adapter(pieces, folder):
    found = find_classes(pieces.cfg, folder / "adapter.safetensors", 6)
    assert len(found.names) == len(found.ids) == 6 and all(isinstance(name, str) for name in found.names)


def evaluate_the_adapter(pieces, folder):
    model, _ = load_trained(pieces.cfg, folder / "adapter.safetensors")
    _, tensors = read_adapter(folder / "adapter.safetensors")
    same(model.state_dict(), tensors, tensors)


def start_from_the_adapter(pieces, folder):
    Checkpointer(copy.deepcopy(pieces.model)).load_weights(str(folder / "adapter.safetensors"), strict=False)


def load_the_checkpoint(pieces, folder):
    model = copy.deepcopy(pieces.model)
    model.load_state_dict(pieces.blank)
    Checkpointer(model).load_weights(str(folder / "model_best.pth"), strict=True)
    expected = read_state_dict(folder / "model_best.pth")
    same(model.state_dict(), expected, model.state_dict())
    merged_state_dict(model)


def evaluate_the_checkpoint(pieces, folder):
    model, _ = load_trained(pieces.cfg, folder / "model_best.pth")
    expected = read_state_dict(folder / "model_best.pth")
    same(model.state_dict(), expected, model.state_dict())


def start_from_the_checkpoint(pieces, folder):
    model = copy.deepcopy(pieces.model)
    model.load_state_dict(pieces.blank)
    Checkpointer(model).load_weights(str(folder / "model_best.pth"), strict=False)
    # What has another shape, the rows of other classes say, keeps its start.
    found = read_state_dict(folder / "model_best.pth")
    expected = {k: v for k, v in found.items() if k in pieces.blank and v.shape == pieces.blank[k].shape}
    same(model.state_dict(), {**pieces.blank, **expected}, model.state_dict())


def resume(pieces, folder):
    model = copy.deepcopy(pieces.model)
    Checkpointer(model, folder).resume()
    name = (folder / "last_checkpoint").read_text().strip()
    if name:
        same(model.state_dict(), read_state_dict(folder / name), model.state_dict())


def compare(pieces, folder):  # noqa: ARG001
    table = comparison([folder])
    metrics = json.loads((folder / "val_metrics.json").read_bytes())
    value = metrics["coco/bbox_mAP"]
    assert ("nan" if value is None else f"{value:.3f}") in table


def go_on_with_the_record(pieces, folder):
    past = RunFolder(folder).read_record()
    assert past == json.loads((folder / "run.json").read_bytes()) or past != past  # NaN
    run_identity(pieces.cfg, folder)
    is_finished(folder, RECORD["config_sha256"], RECORD["data"])
    assert past.get("iteration", 7) == int(past.get("iteration", 7))


def go_on_with_the_metrics(pieces, folder):  # noqa: ARG001
    before = read_lines(folder / "metrics.json")
    drop_lines_after(folder / "metrics.json", 4)
    kept = [line for line in before if line.get("iteration", -1) <= 4]
    assert json.dumps(read_lines(folder / "metrics.json")) == json.dumps(
        [json.loads(json.dumps(line, sort_keys=True)) for line in kept]
    )


def build_from_the_config(pieces, folder):  # noqa: ARG001
    cfg = load_config(str(folder / "config.yaml"), [])
    build_model(cfg.model)


def compare_the_config(pieces, folder):
    config_changes(pieces.cfg, folder)


ADAPTER = (load_the_adapter, inspect_the_adapter, export_the_adapter, classes_of_the_adapter, start_from_the_adapter)
CHECKPOINT = (load_the_checkpoint, start_from_the_checkpoint)


def bytes_of(name):
    return lambda folder, rng: (name, damaged_bytes((folder / name).read_bytes(), rng))


def header_of(key):
    name = "adapter.safetensors"
    return lambda folder, rng: (name, odd_header((folder / name).read_bytes(), rng, key))


def json_of(name):
    return lambda folder, rng: (name, dumped(odd_json(json.loads((folder / name).read_text()), rng)))


def odd_line(folder, rng):
    lines = (folder / "metrics.json").read_text().splitlines()
    place = rng.randrange(len(lines))
    lines[place] = dumped(odd_json(json.loads(lines[place]), rng)).decode("utf-8", "surrogatepass")
    return "metrics.json", "\n".join(lines).encode("utf-8", "surrogatepass")


def odd_checkpoint(folder, rng):
    content = torch.load(folder / "model_best.pth", weights_only=True)
    part = rng.choice(("model", "adapter_recipes", "iteration", None))
    if part == "model" and rng.random() < 0.7:
        name = rng.choice(list(content["model"]))
        tensor = content["model"][name]
        content["model"][name] = rng.choice([None, "x", tensor[None], tensor.tolist(), 1])
    elif part == "adapter_recipes":
        content[part] = odd_json(content[part], rng)
    elif part is None:
        content = rng.choice([[], None, {}, {"model": []}, {"model": None}, {"state_dict": content["model"]}, 3])
    else:
        content[part] = odd_json({"a": 1}, rng)
    torch.save(content, folder / "odd.pth")
    return "model_best.pth", (folder / "odd.pth").read_bytes()


def odd_tag(folder, rng):  # noqa: ARG001
    texts = ["", "none.pth", "../model_final.pth", "/etc", "a\x00b", "model_best.pth", ".", "x" * 5000, "a\nb", "é.pth"]
    return "last_checkpoint", rng.choice([*texts, "\udc80"]).encode("utf-8", "surrogateescape")


def odd_config(folder, rng):
    lines = (folder / "config.yaml").read_text().splitlines()
    place = rng.randrange(len(lines))
    key = lines[place].partition(":")[0]
    values = ("[]", "{}", "null", "'x'", "1.5", "-1", "{a: 1}", "[1, 2]", "${nowhere}", "!!python/tuple [1]", "&")
    lines[place] = rng.choice((f"{key}: {rng.choice(values)}", key, "", f"  {lines[place]}", f"{lines[place]}x"))
    return "config.yaml", "\n".join(lines).encode()


# Kind of fault, how it is made, and the doors that the file is brought through.
KINDS = {
    "bytes of an adapter": (bytes_of("adapter.safetensors"), ADAPTER),
    "tensors' header of an adapter": (header_of(None), ADAPTER),
    "header of an adapter": (header_of(METADATA_KEY), ADAPTER),
    "an adapter to evaluate": (header_of(METADATA_KEY), (evaluate_the_adapter,)),
    "bytes of a checkpoint": (bytes_of("model_best.pth"), CHECKPOINT),
    "content of a checkpoint": (odd_checkpoint, CHECKPOINT),
    "a checkpoint to evaluate": (odd_checkpoint, (evaluate_the_checkpoint,)),
    "bytes of a record": (bytes_of("run.json"), (go_on_with_the_record, compare, export_the_adapter)),
    "a record": (json_of("run.json"), (go_on_with_the_record, compare, export_the_adapter)),
    "metrics of a split": (json_of("val_metrics.json"), (compare,)),
    "bytes of the log of metrics": (bytes_of("metrics.json"), (go_on_with_the_metrics,)),
    "a line of metrics": (odd_line, (go_on_with_the_metrics,)),
    "last_checkpoint": (odd_tag, (resume,)),
    "a config": (odd_config, (build_from_the_config, compare_the_config)),
    "bytes of a config": (bytes_of("config.yaml"), (build_from_the_config, compare_the_config)),
}


def bring_through(pieces, kind, cases, tmp_path):
    make, doors = KINDS[kind]
    counts = Counter()
    for seed in range(cases):
        rng = random.Random(f"{kind} {seed}")
        folder = shutil.copytree(pieces.folder, tmp_path / str(seed))
        name, content = make(folder, rng)
        for door in doors:
            (folder / name).write_bytes(content)
            where = f"{kind}, seed {seed}, {door.__name__}"
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    door(pieces, folder)
                except Exception as error:
                    assert is_user_error(error), f"{where}: {type(error).__name__}: {error}"
                    counts["refused"] += 1
                    text = one_line(error)
                    assert "\n" not in text and len(text) < 2000, f"{where}: {text}"
                    # What a config asks for is named by key or part: it may come from elsewhere as well.
                    assert str(folder) in text or name == "config.yaml", f"{where} names no file: {text}"
                else:
                    counts["read"] += 1
        shutil.rmtree(folder)
    assert counts["refused"], "no fault was found: the test looks at nothing"


@pytest.mark.parametrize("kind", KINDS)
def test_some_faults(pieces, kind, tmp_path):
    bring_through(pieces, kind, FAST, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_all_faults(pieces, kind, tmp_path):
    bring_through(pieces, kind, SLOW, tmp_path)
