"""The same mistake is the same line, whichever command meets it."""

import json
import re
import runpy
import shutil
import sys
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog
from helpers.train_tool import CONFIG, ROOT, call

from loradet.adapters import adapter_state, save_adapter
from loradet.config import load_config
from loradet.model import build_model


@pytest.fixture(scope="module")
def folder(train_data, tmp_path_factory):
    """What a run leaves, as far as the commands look at it, with random weights; and an image."""
    folder = tmp_path_factory.mktemp("doors") / "run"
    folder.mkdir()
    torch.manual_seed(0)
    model = build_model(load_config(CONFIG, [f"data.root={train_data}"]).model)
    torch.save({"model": model.state_dict(), "adapter_recipes": adapter_state(model)}, folder / "model_best.pth")
    categories = json.loads((train_data / "Annotations" / "train.json").read_text())["categories"]
    names, ids = [category["name"] for category in categories], [category["id"] for category in categories]
    save_adapter(model, folder / "adapter.safetensors", classes=names, class_ids=ids)
    shutil.copy(folder / "model_best.pth", folder / "model_final.pth")
    (folder / "last_checkpoint").write_text("model_final.pth")
    (folder / "run.json").write_text(json.dumps({"status": "finished"}))
    shutil.copy(next((train_data / "JPEGImages" / "val").iterdir()), folder / "image.jpg")
    return folder


@pytest.fixture
def run(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "run")


@pytest.fixture(autouse=True)
def _forget_data():
    before = set(DatasetCatalog.list())
    yield
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)


class Doors:
    """Every command that reads a config, weights or a run; each returns its error."""

    def __init__(self, data: Path, run: Path, output: Path, config: str = CONFIG, overrides: tuple[str, ...] = ()):
        self.run, self.output = run, output
        self.config = ["--config-file", config]
        self.overrides = [f"data.root={data}", "train.device=cpu", *overrides]

    def train(self, *more: str) -> str:
        return self._training_tool(f"train.output_dir={self.output}", "train.max_iter=1", *more)

    def resume(self) -> str:
        return self._training_tool("--resume", f"train.output_dir={self.run}", "train.max_iter=9")

    def evaluate(self, checkpoint: str = "model_best.pth") -> str:
        words = ["--eval-only", "--checkpoint", str(self.run / checkpoint)]
        return self._training_tool(*words, f"train.output_dir={self.output}")

    def predict(self, checkpoint: str = "model_best.pth") -> str:
        words = [str(self.run / "image.jpg"), *self.config, "--checkpoint", self.run / checkpoint]
        return self._tool("predict.py", *words, "--output", self.output, "--set", *self.overrides)

    def export(self, checkpoint: str = "model_best.pth") -> str:
        words = [*self.config, "--checkpoint", self.run / checkpoint, "--output", self.output / "a.pt2"]
        return self._tool("export.py", *words, *self.overrides)

    def paint(self, checkpoint: str = "model_best.pth") -> str:
        words = [*self.config, "--checkpoint", self.run / checkpoint, "--output", self.output]
        return self._tool("visualize.py", *words, *self.overrides)

    def stats(self) -> str:
        return self._tool("model_stats.py", self.config[1], *self.overrides)

    def cut_adapter(self, checkpoint: str = "model_best.pth") -> str:
        words = [*self.config, "--checkpoint", self.run / checkpoint, "--output", self.output / "a.safetensors"]
        return self._tool("adapters.py", "export", *words, *self.overrides)

    def apply_adapter(self, adapter: str = "adapter.safetensors", *more: str) -> str:
        words = [*self.config, "--adapter", self.run / adapter, "--output", self.output / "a.pth"]
        return self._tool("adapters.py", "apply", *words, *self.overrides, *more)

    def export_run(self) -> str:
        return self._tool("adapters.py", "export", self.run, "--output", self.output / "a.safetensors")

    def compare(self) -> str:
        return self._tool("compare_runs.py", self.run)

    def _training_tool(self, *words: str) -> str:
        status, stderr = call(*self.config, *words, *self.overrides)
        assert status == 1, stderr
        # torch may add that there is no CUDA.
        return "\n".join(line for line in stderr.splitlines() if "cpp_extension" not in line)

    def _tool(self, name: str, *words: object) -> str:
        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stop:
            patch.setattr(sys, "argv", [name, *map(str, words)])
            runpy.run_path(str(ROOT / "tools" / name), run_name="__main__")
        assert isinstance(stop.value.code, str), stop.value.code
        return stop.value.code


def the_line(errors: list[str]) -> str:
    """The one line that all of them are."""
    assert len(set(errors)) == 1, "\n".join(errors)
    line = errors[0]
    assert line.startswith("error: ") and "\n" not in line
    return line


OF_A_CONFIG = ["train", "evaluate", "predict", "export", "paint", "stats", "apply_adapter"]

MODELS = {
    "model.anchor_generator.sizes=[[8],[16],[32]]": "The model cannot be built: ",
    "+model.numclasses=6": "model.numclasses: unexpected keyword argument 'numclasses' of RetinaNet; nearest: num_cl",
    "model.backbone.in_features=[res2,res3]": r"in_features=\['res2', 'res3'\] of the pyramid: the backbone gives",
    "model.backbone.bottom_up.targets=[mlp.fc3]": r"mlp\.fc3",
    "model.backbone.out_channels=many": "model.backbone.out_channels='many': expected a whole number",
    "model.head._target_=detectron2.modeling.NoSuchHead": "NoSuchHead",
}


# Half of them: each goes through all doors.
_QUICK = list(MODELS)[1::2]


@pytest.mark.parametrize(
    "override", [one if one in _QUICK else pytest.param(one, marks=pytest.mark.slow) for one in MODELS]
)
def test_a_model_that_cannot_be_built(train_data, run, tmp_path, override):
    doors = Doors(train_data, run, tmp_path / "out", overrides=(override,))
    line = the_line([getattr(doors, door)() for door in OF_A_CONFIG])
    assert re.search(MODELS[override], line), line


CONFIGS = {
    "absent": (None, r"Config file .*own\.py does not exist"),
    "a syntax error": ("model = = 3", r"Config file .*own\.py, line 1: "),
    "a name that is not there": ("model = RetinaNet()", r"own\.py, line 1: NameError"),
    "an unknown setting": ("train = dict(max_itre=3)", r"train\.max_itre is not a setting; nearest: train\.max_iter"),
    "a wrong type": ("train = dict(log_period='often')", r"train\.log_period='often': expected a whole number"),
}


@pytest.mark.parametrize("fault", CONFIGS)
def test_a_broken_config(train_data, run, tmp_path, fault):
    text, message = CONFIGS[fault]
    if text is not None:
        (tmp_path / "own.py").write_text(text)
    doors = Doors(train_data, run, tmp_path / "out", config=str(tmp_path / "own.py"))
    line = the_line([getattr(doors, door)() for door in OF_A_CONFIG])
    assert re.search(message, line), line


def test_an_unknown_override(train_data, run, tmp_path):
    doors = Doors(train_data, run, tmp_path / "out", overrides=("model.num_clases=6",))
    assert "Nearest: model.num_classes" in the_line([getattr(doors, door)() for door in OF_A_CONFIG])


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def of_another_model(path: Path) -> None:
    torch.save({"model": torch.nn.Linear(2, 3).state_dict()}, path)


BROKEN = {
    "cut": cut,
    "empty": lambda path: path.write_bytes(b""),
    "a web page": lambda path: path.write_text("<html>Not found</html>"),
    "an object": lambda path: torch.save({"model": {"a": torch.zeros(1)}, "b": torch.nn.Linear(1, 1)}, path),
    "of another model": of_another_model,
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_checkpoint_that_cannot_be_used(train_data, run, tmp_path, how):
    BROKEN[how](run / "model_best.pth")
    doors = Doors(train_data, run, tmp_path / "out")
    errors = [getattr(doors, door)() for door in ("evaluate", "predict", "export", "paint")]
    if how != "of another model":  # these count LoRA's tensors among the missing ones
        errors += [doors.cut_adapter(), doors.train(f"train.init_checkpoint={run / 'model_best.pth'}")]
    assert str(run / "model_best.pth") in the_line(errors)


def test_a_checkpoint_that_is_not_there(train_data, run, tmp_path):
    doors = Doors(train_data, run, tmp_path / "out")
    line = the_line([getattr(doors, door)("none.pth") for door in ("evaluate", "predict", "export", "paint")])
    assert f"Checkpoint {run / 'none.pth'} does not exist" in line


ADAPTERS = {"cut": cut, "empty": BROKEN["empty"], "a web page": BROKEN["a web page"], "of another rank": None}


@pytest.mark.parametrize("how", ADAPTERS)
def test_an_adapter_that_cannot_be_used(train_data, run, tmp_path, how):
    more = ("model.backbone.bottom_up.rank=3",) if ADAPTERS[how] is None else ()
    if ADAPTERS[how] is not None:
        ADAPTERS[how](run / "adapter.safetensors")
    doors = Doors(train_data, run, tmp_path / "out", overrides=more)
    base = f"train.init_checkpoint={run / 'model_final.pth'}"
    doors.overrides += [base] if not more else []
    errors = [getattr(doors, door)("adapter.safetensors") for door in ("evaluate", "predict", "export", "paint")]
    errors.append(doors.apply_adapter())
    assert str(run / "adapter.safetensors") in the_line(errors)


def test_a_truncated_file_of_initial_weights(train_data, run, tmp_path):
    cut(run / "adapter.safetensors")
    doors = Doors(
        train_data, run, tmp_path / "out", overrides=(f"train.init_checkpoint={run / 'adapter.safetensors'}",)
    )
    line = the_line([doors.train(), doors.cut_adapter(), doors.apply_adapter()])
    assert str(run / "adapter.safetensors") in line


RECORDS = {
    "cut": '{"status": "fin',
    "empty": "",
    "no JSON": "status: finished",
    "a list": "[1, 2]",
}


@pytest.mark.parametrize("how", RECORDS)
def test_a_run_whose_record_is_broken(train_data, run, tmp_path, how):
    (run / "run.json").write_text(RECORDS[how])
    doors = Doors(train_data, run, tmp_path / "out")
    assert str(run / "run.json") in the_line([doors.resume(), doors.export_run(), doors.compare()])


def test_nothing_of_a_run_is_lost_by_any_of_it(folder):
    assert sorted(path.name for path in folder.iterdir()) == [
        *("adapter.safetensors", "image.jpg", "last_checkpoint", "model_best.pth", "model_final.pth", "run.json")
    ]
