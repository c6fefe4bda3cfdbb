import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig, instantiate
from helpers.paths import ROOT, TEST_CONFIGS

from loradet.adapters import (
    adapter_sizes,
    adapter_state,
    describe_adapter,
    freeze,
    load_adapter,
    lora,
    merged_state_dict,
    read_adapter,
    save_adapter,
)

TOOL = ROOT / "tools" / "adapters.py"
CONFIG = TEST_CONFIGS / "tiny.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("adapters_tool", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build(adapted: bool = True) -> torch.nn.Module:
    cfg = LazyConfig.load(str(CONFIG)).model
    cfg.num_classes = 6
    if not adapted:
        cfg.backbone.bottom_up = cfg.backbone.bottom_up.module.module
    return instantiate(cfg).eval()


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with base.pth and model.pth, a checkpoint of "training" on that base."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    base = build(adapted=False)
    torch.save({"model": base.state_dict()}, folder / "base.pth")
    model = build()
    model.load_state_dict(base.state_dict(), strict=False)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(0, 0.1)
    torch.save({"model": model.state_dict(), "adapter_recipes": adapter_state(model)}, folder / "model.pth")
    return folder


@pytest.fixture(scope="module")
def adapter(tool, trained) -> Path:
    path = trained / "a.safetensors"
    run(tool, "export", "--checkpoint", trained / "model.pth", "--output", path, "--classes", "a,b,c,d,e,f")
    return path


def run(tool, command: str, *arguments: object) -> None:
    config, overrides = ([], []) if command == "inspect" else (["--config-file", CONFIG], ["model.num_classes=6"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(TOOL), command, *map(str, [*config, *arguments, *overrides])])
        tool.main()


def model_in(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["model"]


def test_export_cuts_the_adapter_out(adapter, trained):
    info, tensors = read_adapter(adapter)
    state = model_in(trained / "model.pth")
    assert info["classes"] == list("abcdef")
    assert all(torch.equal(tensor, state[name]) for name, tensor in tensors.items())
    frozen = {name for name in state if name.startswith("backbone.bottom_up.") and "lora_" not in name}
    assert set(tensors) == set(state) - frozen
    saved = torch.load(trained / "model.pth", weights_only=True)["adapter_recipes"]
    assert info["recipes"] == saved


def test_merge_writes_a_checkpoint_of_the_plain_model(tool, adapter, trained, capsys):
    output = trained / "new" / "merged.pth"
    run(tool, "merge", "--adapter", adapter, "--output", output, f"train.init_checkpoint={trained / 'base.pth'}")
    assert str(output) in capsys.readouterr().out
    model = build()
    model.load_state_dict(model_in(trained / "model.pth"))
    plain = build(adapted=False)
    plain.load_state_dict(model_in(output))
    assert all(torch.equal(v, merged_state_dict(model)[k]) for k, v in plain.state_dict().items())
    x = torch.randn(1, 3, 64, 64)
    for name, feature in plain.backbone(x).items():
        torch.testing.assert_close(feature, model.backbone(x)[name], atol=1e-5, rtol=1e-5)


def test_apply_writes_the_checkpoint_of_training(tool, adapter, trained):
    output = trained / "full.pth"
    run(tool, "apply", "--adapter", adapter, "--output", output, f"train.init_checkpoint={trained / 'base.pth'}")
    written = torch.load(output, weights_only=True)
    expected = torch.load(trained / "model.pth", weights_only=True)
    assert written["adapter_recipes"] == expected["adapter_recipes"]
    assert written["model"].keys() == expected["model"].keys()
    assert all(torch.equal(v, expected["model"][k]) for k, v in written["model"].items())


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--adapter", "{a}"], "other base weights"),  # without the base checkpoint
        (["--adapter", "{f}/none.safetensors"], "none.safetensors"),
        (["--adapter", "{a}", "train.init_checkpoint={f}/none.pth"], "none.pth"),
        (["--adapter", "{a}", "train.init_chekpoint=x"], "train.init_checkpoint"),
    ],
)
def test_mistakes_end_in_one_line_and_leave_no_file(tool, adapter, trained, arguments, message):
    filled = [a.format(a=adapter, f=trained) for a in arguments]
    with pytest.raises(SystemExit) as stop:
        run(tool, "apply", "--output", trained / "wrong.pth", *filled)
    assert str(stop.value).startswith("error: ") and message in str(stop.value)
    assert not list(trained.glob("*wrong*"))


def test_output_names_are_checked_before_anything_is_loaded(tool, capsys):
    with pytest.raises(SystemExit) as stop:
        run(tool, "merge", "--adapter", "a.safetensors", "--output", "merged.bin")
    assert stop.value.code == 2 and ".pth" in capsys.readouterr().err


def test_inspect_needs_neither_config_nor_detectron2(adapter):
    code = (
        f"import runpy, sys; sys.argv = [{str(TOOL)!r}, 'inspect', {str(adapter)!r}]; "
        f"runpy.run_path({str(TOOL)!r}, run_name='__main__'); "
        "assert not {'detectron2', 'timm', 'cv2'} & set(sys.modules), 'heavy imports'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "rank 2, alpha 4, dropout 0.1" in done.stdout and "convnext_atto" in done.stdout


def test_inspect_prints_json(tool, adapter, capsys):
    run(tool, "inspect", adapter, "--json")
    assert json.loads(capsys.readouterr().out) == read_adapter(adapter)[0]


@pytest.fixture(scope="module")
def second(trained) -> Path:
    """Another adapter on the same base, of another rank."""
    cfg = LazyConfig.load(str(CONFIG)).model
    cfg.num_classes = 6
    cfg.backbone.bottom_up.rank = 5
    model = instantiate(cfg)
    model.load_state_dict(model_in(trained / "base.pth"), strict=False)
    torch.manual_seed(5)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(0, 0.1)
    save_adapter(model, trained / "b.safetensors")
    return trained / "b.safetensors"


@pytest.mark.parametrize("command", ["apply", "merge"])
def test_several_adapters_give_the_checkpoints_that_each_gives_alone(tool, command, adapter, second, trained, capsys):
    folder, base = trained / f"several_{command}", f"train.init_checkpoint={trained / 'base.pth'}"
    run(tool, command, "--adapter", f"ships={adapter}", "--adapter", second, "--output", folder, base)
    assert sorted(path.name for path in folder.iterdir()) == ["b.pth", "ships.pth"]
    assert capsys.readouterr().out.split() == ["Written:", str(folder / "ships.pth"), "Written:", str(folder / "b.pth")]
    for name, file, more in (("ships", adapter, []), ("b", second, ["model.backbone.bottom_up.rank=5"])):
        run(tool, command, "--adapter", file, "--output", trained / "alone.pth", base, *more)
        several, alone = (
            torch.load(path, weights_only=True) for path in (folder / f"{name}.pth", trained / "alone.pth")
        )
        assert several["model"].keys() == alone["model"].keys()
        assert all(torch.equal(v, alone["model"][k]) for k, v in several["model"].items())
        assert several.get("adapter_recipes") == alone.get("adapter_recipes")


def test_an_applied_adapter_detects_what_it_detects_by_load_adapter(tool, adapter, second, trained):
    folder, base = trained / "applied", f"train.init_checkpoint={trained / 'base.pth'}"
    run(tool, "apply", "--adapter", f"a={adapter}", "--adapter", f"b={second}", "--output", folder, base)
    loaded, applied = build(), build()
    loaded.load_state_dict(model_in(trained / "base.pth"), strict=False)
    load_adapter(loaded, adapter)
    applied.load_state_dict(model_in(folder / "a.pth"))
    found, scores = boxes(loaded)
    assert len(found) == len(scores) > 0 and boxes(applied) == (found, scores)


def boxes(model: torch.nn.Module) -> tuple[list, list]:
    model.test_score_thresh = 0.0
    torch.manual_seed(1)
    with torch.no_grad():
        (output,) = model([{"image": torch.rand(3, 64, 64) * 255, "height": 64, "width": 64}])
    return output["instances"].pred_boxes.tensor.tolist(), output["instances"].scores.tolist()


def test_one_adapter_that_does_not_fit_leaves_nothing_written(tool, adapter, trained):
    cfg = LazyConfig.load(str(CONFIG)).model
    cfg.num_classes = 2
    save_adapter(instantiate(cfg), trained / "two.safetensors")
    adapters = ["--adapter", adapter, "--adapter", trained / "two.safetensors"]
    with pytest.raises(SystemExit) as stop:
        run(tool, "apply", *adapters, "--output", trained / "never", f"train.init_checkpoint={trained / 'base.pth'}")
    message = str(stop.value)
    assert message.startswith("error: ") and "two.safetensors does not fit" in message and "a.safetensors" in message
    assert not (trained / "never").exists()


@pytest.mark.parametrize(
    "words, message",
    [
        (["apply", "--adapter", "x/a.safetensors", "--adapter", "y/a.safetensors", "--output", "d"], "called 'a'"),
        (["apply", "--adapter", "x=a", "--adapter", "y=b", "--output", "d.pth"], "expected a folder"),
        (["merge", "--adapter", "a", "--output", "merged.bin"], "ends in .pth, or a folder"),
        (["apply", "--adapter", "a", "--output", "d", "--stray"], "--stray"),
        (["export", "--output", "a.safetensors"], "--config-file"),
        (["export", "work_dirs/x", "--config-file", "c.py", "--checkpoint", "x.pth"], "either a run's folder"),
        (["export", "--config-file", "c.py", "--output", "a.safetensors"], "--checkpoint is needed"),
        (["export", "--config-file", "c.py", "--checkpoint", "x.pth", "model.num_classes=6"], "--output is needed"),
        (["export", "work_dirs/x", "--classes", "a,b"], "--classes"),
        (["export", "work_dirs/x", "--output", "x.safetensors", "model.num_classes=6"], "KEY=VALUE go with"),
        (["export", "work_dirs/x", "--output", "x.pth"], "ends in .safetensors"),
        (["inspect", "a.safetensors", "a=b"], "a=b"),
    ],
)
def test_words_that_make_no_command_are_refused(tool, words, message, capsys):
    words = [*words[:1], "--config-file", "c.py", *words[1:]] if words[0] in ("apply", "merge") else words
    with pytest.raises(SystemExit) as stop:
        tool.parse_arguments(words)
    assert stop.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize("position", [1, 3, 7])
def test_overrides_may_stand_anywhere(tool, position):
    words = ["export", "--config-file", "c.py", "--checkpoint", "x.pth", "--output", "a.safetensors"]
    words[position:position] = ["model.num_classes=6"]
    assert tool.parse_arguments([*words, "a.b=1"]).overrides == ["model.num_classes=6", "a.b=1"]


PLAIN = """
import sys
sys.modules["loradet.adapters.lora_layers"] = None  # importing it fails from here on
import loradet
import torch
from detectron2_embedded import is_embedded
assert is_embedded()
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone.fpn import FPN, LastLevelP6P7
from detectron2.modeling.backbone import Backbone
import timm

class Plain(Backbone):
    def __init__(self):
        super().__init__()
        self.net = timm.create_model("convnext_atto", features_only=True, out_indices=(1, 2, 3), depths=(1, 1, 1, 1),
                                     dims=(8, 16, 24, 32))
        self._out_features = ["stage1", "stage2", "stage3"]
        self._out_feature_channels = dict(zip(self._out_features, (16, 24, 32)))
        self._out_feature_strides = dict(zip(self._out_features, (8, 16, 32)))

    def forward(self, x):
        return dict(zip(self._out_features, self.net(x)))

from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch.retinanet import RetinaNet, RetinaNetHead

names = ["stage1", "stage2", "stage3"]
sizes = [[x, x * 2 ** (1 / 3), x * 2 ** (2 / 3)] for x in [16, 32, 64, 128, 256]]
model = RetinaNet(
    backbone=FPN(Plain(), names, 16, norm="", top_block=LastLevelP6P7(32, 16, in_feature="stage3")),
    head=RetinaNetHead(input_shape=[ShapeSpec(channels=16)] * 5, num_classes=6, conv_dims=[16], num_anchors=9),
    anchor_generator=DefaultAnchorGenerator(
        sizes=sizes, aspect_ratios=[0.5, 1.0, 2.0], strides=[8, 16, 32, 64, 128], offset=0.0
    ),
    box2box_transform=Box2BoxTransform(weights=[1.0, 1.0, 1.0, 1.0]),
    anchor_matcher=Matcher(thresholds=[0.4, 0.5], labels=[0, -1, 1], allow_low_quality_matches=True),
    num_classes=6,
    head_in_features=["p3", "p4", "p5", "p6", "p7"],
    pixel_mean=[123.675, 116.28, 103.53],
    pixel_std=[58.395, 57.12, 57.375],
).eval()
print(model.load_state_dict(torch.load(sys.argv[1], weights_only=True)["model"], strict=True))
x = torch.load(sys.argv[2], weights_only=True)
with torch.no_grad():
    features = [model.backbone(x)[name] for name in model.head_in_features]
    logits, deltas = model.head(features)
torch.save({"features": features, "logits": logits, "deltas": deltas}, sys.argv[3])
assert not any(name.startswith("loradet.adapters") and sys.modules[name] for name in sys.modules)
"""


@torch.no_grad()
def test_a_merged_checkpoint_loads_without_any_code_of_adapters(tool, adapter, trained, tmp_path):
    merged, images, outputs = (tmp_path / name for name in ("merged.pth", "images.pth", "outputs.pth"))
    run(tool, "merge", "--adapter", adapter, "--output", merged, f"train.init_checkpoint={trained / 'base.pth'}")
    torch.manual_seed(0)
    x = torch.randn(2, 3, 64, 64)
    torch.save(x, images)
    done = subprocess.run(
        [sys.executable, "-c", PLAIN, str(merged), str(images), str(outputs)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "LORADET_DETECTRON2": "embedded"},
    )
    assert done.returncode == 0, done.stderr
    assert "All keys matched" in done.stdout
    model = build()
    model.load_state_dict(model_in(trained / "model.pth"))
    features = [model.backbone(x)[name] for name in model.head_in_features]
    logits, deltas = model.head(features)
    plain = torch.load(outputs, weights_only=True)
    torch.testing.assert_close(plain, {"features": features, "logits": logits, "deltas": deltas}, atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def finished_run(adapter, trained, tmp_path_factory) -> Path:
    """What training leaves, as far as it matters here."""
    folder = tmp_path_factory.mktemp("work_dirs") / "tiny_seed0"
    folder.mkdir()
    shutil.copy(adapter, folder / "adapter.safetensors")
    shutil.copy(trained / "model.pth", folder / "model_best.pth")
    (folder / "run.json").write_text(json.dumps({"status": "finished", "seed": 0}))
    return folder


def test_export_of_a_run_needs_no_config_and_prints_both_sizes(finished_run, adapter, tmp_path):
    """As a user: nothing is built, and Detectron2 is not even imported."""
    code = (
        f"import runpy, sys; sys.argv = [{str(TOOL)!r}, 'export', {str(finished_run)!r}, '--peft', 'peft']; "
        f"runpy.run_path({str(TOOL)!r}, run_name='__main__'); "
        "assert not {'detectron2', 'timm', 'cv2'} & set(sys.modules), 'heavy imports'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    written = finished_run / "export" / "tiny_seed0.safetensors"
    info, tensors = read_adapter(written)
    assert info["metadata"] == {"run": "tiny_seed0", "seed": 0} and info["classes"] == list("abcdef")
    assert all(torch.equal(tensor, read_adapter(adapter)[1][name]) for name, tensor in tensors.items())
    lora = sum(t.nbytes for name, t in tensors.items() if "lora_" in name)
    first, second = done.stdout.splitlines()
    sizes = f"{written.stat().st_size / 1e6:.2f} MB, LoRA tensors alone {lora / 1e6:.2f} MB"
    assert first == f"Written: {written} ({sizes})"
    assert second.startswith("Written: peft (PEFT layout, LoRA of 8 layers); it cannot hold the other")
    assert "head.cls_score 2" in second
    assert sorted(path.name for path in (tmp_path / "peft").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def test_an_unfinished_run_is_said_in_one_line(tool, finished_run, tmp_path, monkeypatch):
    folder = shutil.copytree(finished_run, tmp_path / "run")
    (folder / "run.json").write_text(json.dumps({"status": "interrupted"}))
    monkeypatch.setattr(sys, "argv", [str(TOOL), "export", str(folder)])
    with pytest.raises(SystemExit) as stop:
        tool.main()
    message = str(stop.value)
    assert message.startswith("error: ") and "status: interrupted" in message and "\n" not in message
    assert f"--config-file {folder}/config.yaml" in message


def test_the_adapter_of_the_study_is_as_small_as_said(tmp_path):
    """E0002: LoRA of rank 16 on all MLPs of ConvNeXt-S, neck of 256 channels, RetinaNet's head for 6 classes."""
    cfg = LazyConfig.load(str(ROOT / "configs" / "common" / "models" / "retinanet_timm.py")).model
    cfg.num_classes = 6
    cfg.backbone.bottom_up.pretrained = False
    bottom_up = L(freeze)(module=cfg.backbone.bottom_up)
    cfg.backbone.bottom_up = L(lora)(module=bottom_up, targets=["mlp.fc1", "mlp.fc2"], rank=16, alpha=32.0)
    save_adapter(instantiate(cfg), tmp_path / "E0002.safetensors")
    sizes = adapter_sizes(tmp_path / "E0002.safetensors")
    _, tensors = read_adapter(tmp_path / "E0002.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    assert sizes.file == (tmp_path / "E0002.safetensors").stat().st_size
    assert sizes.lora < 9e6 < sizes.file < 48e6
    assert f"({sizes})" in describe_adapter(tmp_path / "E0002.safetensors").splitlines()[0]
