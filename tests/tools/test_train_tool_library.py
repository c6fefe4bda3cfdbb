"""The training tool on a detector of transformers: files, resume to the digit, adapters, classes, predictions."""

import json

import pytest
import torch
from helpers.library_detectors import build, items, library_model, needs_transformers
from helpers.paths import TEST_CONFIGS
from helpers.same_state import same
from helpers.train_tool import ROOT, arguments, call, lines, reproducible, succeed
from PIL import Image
from safetensors.torch import save_file

import loradet
from loradet.adapters import read_adapter
from loradet.backbones import TimmBackbone
from loradet.config import load_config
from loradet.model import load_detector
from loradet.training.trainer import Trainer

pytestmark = needs_transformers
CONFIG = TEST_CONFIGS / "tiny_dfine.py"


class CrashError(Exception):
    """Breaks a run."""


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Words of a run on a backbone with weights."""
    torch.manual_seed(3)
    sizes = {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}
    backbone = TimmBackbone("convnext_atto", out_features=["stage1", "stage2", "stage3"], **sizes)
    file = tmp_path_factory.mktemp("backbone") / "backbone.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in backbone.net.state_dict().items()}, file)
    return [
        f"+model.backbone.module.module.weights={file}",
        "train.max_iter=6",
        "train.eval_period=3",
        "train.ema.enabled=True",
        "train.clip_grad.max_norm=0.1",
    ]


@pytest.fixture(scope="module")
def whole(train_data, settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    succeed(*arguments(train_data, folder, *settings, config=CONFIG))
    return folder


def test_a_run_leaves_what_every_run_leaves(whole):
    logged = {name for line in lines(whole) for name in line}
    assert {"loss_vfl", "loss_fgl", "loss_giou_aux_1", "loss_ddf_dn_0", "val/loss_vfl", "bbox/AP"} <= logged
    step = next(line for line in lines(whole) if "total_loss" in line)
    assert abs(step["total_loss"] - sum(value for name, value in step.items() if name.startswith("loss_"))) < 1e-3
    assert "coco/bbox_mAP" in json.loads((whole / "val_metrics.json").read_text(encoding="utf-8"))
    _, tensors = read_adapter(whole / "adapter.safetensors")
    assert {"network.model.decoder.class_embed.0.weight", "network.model.encoder_input_proj.0.1.running_mean"} <= set(
        tensors
    )
    backbone = [name for name in tensors if name.startswith("backbone.")]
    assert backbone and all("lora_" in name for name in backbone)


@pytest.mark.slow
def test_a_run_that_breaks_goes_on_to_the_digit(whole, settings, train_data, tmp_path, monkeypatch):
    step = Trainer.run_step

    def run_step(self):
        if self.iter == 4:
            monkeypatch.setattr(Trainer, "run_step", step)
            raise CrashError
        step(self)

    monkeypatch.setattr(Trainer, "run_step", run_step)
    words = arguments(train_data, tmp_path / "run", *settings, config=CONFIG)
    with pytest.raises(CrashError):
        call(*words)
    succeed(*words, "--resume")
    assert [reproducible(line) for line in lines(tmp_path / "run")] == [reproducible(line) for line in lines(whole)]
    ours, theirs = (torch.load(f / "model_final.pth", weights_only=True) for f in (tmp_path / "run", whole))
    assert same(ours["model"], theirs["model"])
    assert same(ours["trainer"]["ema"], theirs["trainer"]["ema"])
    assert same(ours["trainer"]["optimizer"], theirs["trainer"]["optimizer"])


def test_adapter_and_checkpoint_predict_alike_in_pixels_of_the_image(whole):
    image = items((80, 100))[0]["image"].permute(1, 2, 0).numpy()
    files = (whole / "model_best.pth", whole / "adapter.safetensors")
    ours, theirs = (loradet.load(file, score_threshold=0.0)(image) for file in files)
    assert ours.image_size == (80, 100)
    assert len(ours) == len(theirs) > 3
    torch.testing.assert_close(ours.pred_boxes.tensor, theirs.pred_boxes.tensor, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(ours.scores, theirs.scores, rtol=0, atol=1e-5)
    assert set(ours.class_names) <= {"ship", "aircraft", "car", "tank", "bridge", "harbor"}


def test_training_starts_from_published_weights_and_merges_onto_their_network(train_data, tmp_path):
    # A number of queries that no shape tells, and that is not the library's default.
    model = build("d_fine", own=True, options={"num_queries": 9})
    model.network.config.backbone_config.out_indices = [2, 3, 4]
    library_model(model).save_pretrained(tmp_path / "published")
    config, run = TEST_CONFIGS / "tiny_dfine_published.py", tmp_path / "run"
    words = [f"+model.module.module.weights={tmp_path / 'published'}", "train.max_iter=2", "train.eval_period=2"]
    succeed(*arguments(train_data, run, *words, config=config))
    trained = torch.load(run / "model_final.pth", weights_only=True)["model"]
    state = model.state_dict()
    frozen = {name for name in state if name.startswith("backbone.") and name in trained}
    assert frozen and all(torch.equal(trained[name], state[name]) for name in frozen)
    cfg = load_config(str(config), [f"data.root={train_data}", *words])
    batch = items((64, 96))
    with torch.no_grad():
        plain, merged = (
            load_detector(cfg, run / "model_final.pth", merge=merge)(batch)[0]["instances"] for merge in (False, True)
        )
    torch.testing.assert_close(merged.scores, plain.scores, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(merged.pred_boxes.tensor, plain.pred_boxes.tensor, rtol=1e-4, atol=1e-3)


@pytest.mark.slow
def test_the_custom_config_on_yolo_data(tmp_path):
    for split in ("train", "val"):
        for part in ("images", "labels"):
            (tmp_path / part / split).mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (96, 96), (40 * i, 90, 120)).save(tmp_path / "images" / split / f"{i}.png")
            (tmp_path / "labels" / split / f"{i}.txt").write_text("0 0.5 0.5 0.4 0.3\n1 0.3 0.2 0.2 0.2\n")
    text = f"path: {tmp_path}\ntrain: images/train\nval: images/val\nnames: [cell, other]\n"
    (tmp_path / "data.yaml").write_text(text, encoding="utf-8")
    words = ["train.max_iter=2", "data.image_size=96", "data.total_batch_size=2", "dataloader.train.num_workers=0"]
    words += [f"data.data_yaml={tmp_path}", f"train.output_dir={tmp_path / 'run'}", "train.device=cpu"]
    succeed("--config-file", str(ROOT / "configs" / "custom_dfine.py"), *words)
    info, _ = read_adapter(tmp_path / "run" / "adapter.safetensors")
    assert info["classes"] == ["cell", "other"]
