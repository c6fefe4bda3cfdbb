"""A config that came along with weights calls nothing of unknown packages, whichever tool reads it, without --trust."""

import contextlib
import io
import runpy
import sys

import pytest
from detectron2.config import LazyConfig
from helpers.paths import ROOT, TEST_CONFIGS

from loradet.config import load_config


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A run's config with somebody's own backbone, which leaves a file behind where it is imported."""
    folder = tmp_path_factory.mktemp("somebodys")
    (folder / "somebodys_net.py").write_text(
        "import pathlib\nfrom loradet.backbones import TimmBackbone\n"
        "pathlib.Path(__file__).with_name('imported').touch()\nclass Net(TimmBackbone): pass\n"
    )
    words = ["data.root=/nowhere", "data.classes=[ship,tank]", "model.num_classes=2", "train.device=cpu"]
    cfg = load_config(str(TEST_CONFIGS / "tiny.py"), words)
    cfg.model.backbone.bottom_up.module.module._target_ = "somebodys_net.Net"
    LazyConfig.save(cfg, str(folder / "config.yaml"))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield folder / "config.yaml"
    sys.modules.pop("somebodys_net", None)


def run(tool, *words):
    """The tool in this process: its error, and what it printed."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        patch.setattr(sys, "argv", [tool, *map(str, words)])
        with contextlib.redirect_stderr(printed):
            try:
                runpy.run_path(str(ROOT / "tools" / tool), run_name="__main__")
            except SystemExit as stop:
                printed.write(str(stop.code))
    return printed.getvalue()


@pytest.mark.parametrize(
    ("tool", "words"),
    [
        ("predict.py", "--config-file C --checkpoint a.pth --output out image.png"),
        ("export.py", "--config-file C --checkpoint a.pth --output a.pt2"),
        ("visualize.py", "--config-file C --checkpoint a.pth --output out"),
        ("adapters.py", "merge --config-file C --adapter a.safetensors --output a.pth"),
        ("adapters.py", "apply --config-file C --adapter a.safetensors --output a.pth"),
        ("adapters.py", "export --config-file C --checkpoint a.pth --output a.safetensors"),
        ("lazyconfig_train_net.py", "--config-file C --eval-only --checkpoint a.pth"),
        ("lazyconfig_train_net.py", "--config-file C"),
        ("benchmark.py", "infer --config-file C"),
        ("model_stats.py", "C"),
    ],
)
def test_every_tool_refuses_it(tool, words, config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "image.png").touch()
    said = run(tool, *words.replace("C", str(config), 1).split())
    assert f"error: {config} would call somebodys_net.Net (model.backbone.bottom_up.module.module)" in said
    assert not config.with_name("imported").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["image.png"]


def test_who_trusts_it_has_it_run(config):
    assert "trainable" in run("model_stats.py", config, "--input-size", 64, 64, "--trust")
    assert config.with_name("imported").exists()
