"""Arguments, set-up and writers."""

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig
from detectron2.engine import (
    create_ddp_model,
    default_argument_parser,
    default_setup,
    default_writers,
)
from detectron2.utils.events import EventStorage
from omegaconf import OmegaConf


@pytest.fixture(autouse=True)
def _own_loggers() -> Iterator[None]:
    names = ("detectron2", "fvcore")
    before = {n: (logging.getLogger(n).handlers[:], logging.getLogger(n).propagate) for n in names}
    yield
    for name, (handlers, propagate) in before.items():
        logging.getLogger(name).handlers[:] = handlers
        logging.getLogger(name).propagate = propagate


def test_arguments() -> None:
    defaults = vars(default_argument_parser().parse_args([]))
    # Detectron2 0.6 takes a port from the user's number: two runs of one user on a machine would meet there.
    del defaults["dist_url"]
    assert defaults == {
        "config_file": "",
        "resume": False,
        "eval_only": False,
        "num_gpus": 1,
        "num_machines": 1,
        "machine_rank": 0,
        "opts": [],
    }
    given = ["--config-file", "a.py", "--resume", "--num-gpus", "2", "train.x=1", "--y", "z"]
    parsed = default_argument_parser("more").parse_args(given)
    assert (parsed.config_file, parsed.resume, parsed.num_gpus) == ("a.py", True, 2)
    assert parsed.opts == ["train.x=1", "--y", "z"]


@pytest.mark.subset
def test_processes_meet_at_any_free_port() -> None:
    assert default_argument_parser().parse_args([]).dist_url == "auto"


def test_setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    config_file = tmp_path / "run.py"
    config_file.write_text("train = dict(seed=3)  # the config's own text\n")
    cfg = OmegaConf.create({"train": {"output_dir": str(tmp_path / "out" / "run"), "seed": 3}, "n": [1, 2]})
    args = argparse.Namespace(config_file=str(config_file), eval_only=False)
    default_setup(cfg, args)
    first = torch.rand(1).item(), np.random.rand()
    default_setup(cfg, args)
    assert (torch.rand(1).item(), np.random.rand()) == first
    assert LazyConfig.load(str(tmp_path / "out/run/config.yaml")) == cfg
    log = (tmp_path / "out/run/log.txt").read_text()
    for part in ("World size: 1", torch.__version__, "the config's own text", "config.yaml"):
        assert part in log
    assert torch.backends.cudnn.benchmark is False


def test_output_folder_at_the_top(tmp_path: Path) -> None:
    default_setup(OmegaConf.create({"output_dir": str(tmp_path / "out"), "train": {"seed": 1}}), argparse.Namespace())
    assert (tmp_path / "out/config.yaml").is_file()


def test_setup_without_an_output_folder_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    default_setup(OmegaConf.create({"train": {"seed": 5}}), argparse.Namespace())
    first = torch.rand(1)
    assert not list(tmp_path.iterdir())
    torch.manual_seed(5)
    assert torch.rand(1) == first


@pytest.mark.subset  # Detectron2 0.6 logs the file alone
def test_log_of_the_values_in_use(tmp_path: Path) -> None:
    cfg = OmegaConf.create({"train": {"output_dir": str(tmp_path)}, "n": [1, 2]})
    default_setup(cfg, argparse.Namespace())
    assert "cfg.n = [1, 2]" in (tmp_path / "log.txt").read_text()


@pytest.mark.subset  # Detectron2 0.6 cannot save such a config
def test_setup_of_a_config_with_a_value_that_does_not_resolve(tmp_path: Path) -> None:
    cfg = OmegaConf.create({"train": {"output_dir": str(tmp_path)}, "a": "${nowhere.to_be}"})
    default_setup(cfg, argparse.Namespace())
    assert "nowhere" in (tmp_path / "log.txt").read_text()
    assert "nowhere" in (tmp_path / "config.yaml").read_text()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_precision_of_float32(tmp_path: Path) -> None:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        for word, tf32 in (("highest", False), ("high", True), ("medium", True)):
            cfg = OmegaConf.create({"train": {"output_dir": str(tmp_path), "float32_precision": word}})
            default_setup(cfg, argparse.Namespace())
            assert torch.get_float32_matmul_precision() == word
            assert torch.backends.cudnn.allow_tf32 is tf32
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


@pytest.mark.subset
def test_setup_of_what_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="float32_precision='low'"):
        default_setup(OmegaConf.create({"train": {"float32_precision": "low"}}), argparse.Namespace())
    with pytest.raises(TypeError, match="lazy config"):
        default_setup({"OUTPUT_DIR": "x"}, argparse.Namespace())


def test_writers(tmp_path: Path) -> None:
    writers = default_writers(str(tmp_path / "run"), max_iter=10)
    with EventStorage(4) as storage:
        storage.put_scalar("total_loss", 1.0)
        for writer in writers:
            writer.write()
            writer.close()
    names = [p.name for p in (tmp_path / "run").iterdir()]
    assert "metrics.json" in names
    assert any(name.startswith("events.out.tfevents") for name in names)


def test_one_process_needs_no_ddp() -> None:
    model = torch.nn.Linear(1, 1)
    assert create_ddp_model(model, broadcast_buffers=False) is model


@pytest.mark.subset
def test_yacs_trainers_say_where_they_are() -> None:
    with pytest.raises(ImportError, match=r"DefaultTrainer.*installed"):
        from detectron2.engine import DefaultTrainer  # noqa: F401
    with pytest.raises(ImportError, match="DefaultPredictor"):
        from detectron2.engine.defaults import DefaultPredictor  # noqa: F401
