"""The code on the pages about one's own backbone, hook and config runs as it stands there."""

import importlib
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.paths import ROOT, TEST_CONFIGS
from PIL import Image
from safetensors.torch import save_file

import loradet
from loradet.cli.train import parse_arguments, run
from loradet.config import load_config
from loradet.datasets.synthetic import generate
from loradet.model import initial_model

TINY = TEST_CONFIGS / "tiny.py"


def blocks(page: str, language: str = "python") -> list[str]:
    """The code blocks of a page."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    """The current folder, with scenes in `data`."""
    folder = tmp_path_factory.mktemp("docs")
    generate(folder / "data", size=(48, 64), counts={"train": 4, "val": 2, "test": 1})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("LORADET_CACHE", str(folder / "cache"))
        patch.syspath_prepend(str(folder))
        yield folder


@pytest.fixture(scope="module")
def run_with_hook(folder):
    """A run of the script with the hook, in the place of the quickstart's."""
    script = folder / "log_lora_norm.py"
    script.write_text(blocks("own_hook.md")[0])
    words = ["data.root=data", "train.output_dir=work_dirs/quickstart", "train.max_iter=20"]
    words += ["train.eval_period=0", "dataloader.train.num_workers=0"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(script), str(TINY), *words])
        runpy.run_path(str(script), run_name="__main__")
    return script, words


def test_the_hook_logs_and_its_state_is_kept(run_with_hook):
    script, words = run_with_hook
    lines = [json.loads(line) for line in Path("work_dirs/quickstart/metrics.json").read_text().splitlines()]
    assert next(line["iteration"] for line in lines if "lora_norm" in line) == 19
    later = runpy.run_path(str(script))["LogLoraNorm"](period=1000)
    loradet.train(TINY, [*words, "train.max_iter=22"], resume=True, hooks=[later])
    assert later.trainer.iter >= 21
    assert later.largest == lines[-1]["lora_norm_largest"] > 0


@pytest.mark.usefixtures("run_with_hook")
def test_the_predictor(folder):
    Image.new("RGB", (90, 60), (40, 90, 60)).save(folder / "image.png")
    names = {}
    exec(blocks("from_detectron2.md")[1], names)
    found = names["found"]
    assert found.image_size == (60, 90) and len(found.class_names) == len(found)
    everything = loradet.load("work_dirs/quickstart", overrides=["model.test_score_thresh=0.0"])
    everything = everything("image.png", score_threshold=0.0)
    assert everything.pred_boxes.tensor[:, 2].max() > 64  # pixels of the file, not of what the model saw


def test_the_config_written_as_detectron2s_users_do(folder):
    (folder / "mine.py").write_text(blocks("from_detectron2.md")[0])
    cfg = load_config("mine.py", ["data.train_json=data/Annotations/train.json"])
    cfg.model.backbone.bottom_up.module.module.pretrained = False  # which needs a network
    model = initial_model(cfg)
    trained = [name for name, p in model.backbone.bottom_up.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * 2 * 16 and all(re.search(r"conv[23]\.lora_[ab]$", name) for name in trained)
    assert model.roi_heads.num_classes == 6


def test_the_backbone_trains(folder):
    net, config = blocks("own_backbone.md")
    (folder / "wide_net.py").write_text(net)
    (folder / "wide_config.py").write_text(config)
    wide_net = importlib.import_module("wide_net").WideNet()
    save_file(wide_net.state_dict(), "wide_net.safetensors")
    places = ["data.root=data", *(f"data.{s}_{k}=data/{d}" for s in ("train", "val") for k, d in _places(s))]
    small = ["data.image_size=64", "data.max_size=64", "data.total_batch_size=2", "model.backbone.out_channels=16"]
    small += ["model.head.conv_dims=[16]", "train.max_iter=2", "dataloader.train.num_workers=0"]
    assert run(parse_arguments(["--config-file", "wide_config.py", *places, *small])) == 0
    state = torch.load("work_dirs/wide_net/model_final.pth", weights_only=True)["model"]
    for name, tensor in wide_net.state_dict().items():
        assert torch.equal(state[f"backbone.bottom_up.{name}"], tensor), name
    assert sum(name.endswith("lora_a") for name in state) == 8


def _places(split: str) -> list[tuple[str, str]]:
    return [("json", f"Annotations/{split}.json"), ("images", f"JPEGImages/{split}")]


def test_the_job_scripts_are_some():
    scripts = blocks("several_machines.md", "bash")
    assert len(scripts) == 2
    for script in scripts:
        done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "") and script.startswith("#!/bin/bash\n#SBATCH")
