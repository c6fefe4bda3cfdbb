import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate

from loradet.adapters import adapter_state, merged_state_dict, read_adapter

REPOSITORY = Path(__file__).resolve().parents[2]
TOOL = REPOSITORY / "tools" / "adapters.py"
CONFIG = REPOSITORY / "tests" / "tiny_config.py"


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
