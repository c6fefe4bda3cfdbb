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
    defaults = default_argument_parser().parse_args([])
    assert vars(defaults) == {
        "config_file": "",
        "resume": False,
        "eval_only": False,
        "num_gpus": 1,
        "num_machines": 1,
        "machine_rank": 0,
        "dist_url": "auto",
        "opts": [],
    }
    given = ["--config-file", "a.py", "--resume", "--num-gpus", "2", "train.x=1", "--y", "z"]
    parsed = default_argument_parser("more").parse_args(given)
    assert (parsed.config_file, parsed.resume, parsed.num_gpus) == ("a.py", True, 2)
    assert parsed.opts == ["train.x=1", "--y", "z"]


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
    for part in ("World size: 1", torch.__version__, "the config's own text", "cfg.n = [1, 2]", "config.yaml"):
        assert part in log
    assert torch.backends.cudnn.benchmark is False


def test_setup_of_a_config_without_output_folder() -> None:
    with pytest.raises(ValueError, match=r"train\.output_dir"):
        default_setup(OmegaConf.create({"train": {}}), argparse.Namespace())
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


def test_yacs_trainers_say_where_they_are() -> None:
    with pytest.raises(ImportError, match=r"DefaultTrainer.*installed"):
        from detectron2.engine import DefaultTrainer  # noqa: F401
    with pytest.raises(ImportError, match="DefaultPredictor"):
        from detectron2.engine.defaults import DefaultPredictor  # noqa: F401
