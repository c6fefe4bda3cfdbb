"""A whole training run with hooks and checkpoints, against the run recorded from Detectron2."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import SimpleTrainer, hooks
from detectron2.solver import WarmupParamScheduler, get_default_optimizer_params
from detectron2.utils.events import JSONWriter
from fvcore.common.param_scheduler import MultiStepParamScheduler
from torch import nn

pytestmark = pytest.mark.golden


class Net(nn.Module):
    """The model of the recorded run."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(6, 8)
        self.norm = nn.LayerNorm(8)
        self.head_a = nn.Linear(8, 3)
        self.head_b = nn.Linear(8, 1)

    def forward(self, batch: tuple[torch.Tensor, ...]) -> dict[str, torch.Tensor]:
        x, ya, yb = batch
        z = torch.tanh(self.norm(self.body(x)))
        return {
            "loss_a": ((self.head_a(z) - ya) ** 2).mean(),
            "loss_b": (self.head_b(z) - yb).abs().mean(),
        }


class Recorded:
    """trainer.npz and checkpoint.json."""

    def __init__(self, folder: Path):
        with np.load(folder / "trainer.npz", allow_pickle=False) as file:
            self.arrays = {key: file[key] for key in file.files}
        self.meta = json.loads(str(self.arrays["meta"]))
        self.checkpoint = json.loads((folder / "checkpoint.json").read_text())

    def weights(self, prefix: str) -> dict[str, torch.Tensor]:
        return {k.removeprefix(prefix): torch.from_numpy(v) for k, v in self.arrays.items() if k.startswith(prefix)}

    def data(self, start: int) -> Iterator[tuple[torch.Tensor, ...]]:
        for i in range(start, self.meta["iterations"]):
            yield tuple(torch.from_numpy(self.arrays[f"data/{i}/{name}"]) for name in ("x", "ya", "yb"))

    def net(self) -> Net:
        shapes = self.weights("w_start/")
        net = Net()
        net.body = nn.Linear(shapes["body.weight"].shape[1], shapes["body.weight"].shape[0])
        net.norm = nn.LayerNorm(shapes["norm.weight"].shape[0])
        net.head_a = nn.Linear(*shapes["head_a.weight"].shape[::-1])
        net.head_b = nn.Linear(*shapes["head_b.weight"].shape[::-1])
        net.load_state_dict(shapes)
        return net


@pytest.fixture(scope="module")
def recorded(golden_d2: Path) -> Recorded:
    return Recorded(golden_d2)


def make_trainer(recorded: Recorded, start: int, folder: Path) -> tuple[SimpleTrainer, DetectionCheckpointer]:
    options = dict(recorded.meta["optimizer"])
    assert options.pop("type") == "SGD"
    norm_decay = options.pop("weight_decay_norm")
    net = recorded.net()
    groups = get_default_optimizer_params(net, weight_decay_norm=norm_decay)
    trainer = SimpleTrainer(net, recorded.data(start), torch.optim.SGD(groups, **options))
    checkpointer = DetectionCheckpointer(net, str(folder), trainer=trainer)
    schedule = dict(recorded.meta["scheduler"])
    warmup = {key: schedule.pop(key) for key in list(schedule) if key.startswith("warmup_")}
    expected = recorded.checkpoint
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            hooks.LRScheduler(scheduler=WarmupParamScheduler(MultiStepParamScheduler(**schedule), **warmup)),
            hooks.PeriodicCheckpointer(
                checkpointer, expected["trainer"]["period"], max_to_keep=expected["trainer"]["max_to_keep"]
            ),
            hooks.PeriodicWriter([JSONWriter(str(folder / "metrics.json"))], period=expected["metrics"]["period"]),
        ]
    )
    return trainer, checkpointer


@pytest.fixture(scope="module")
def run(recorded: Recorded, tmp_path_factory: pytest.TempPathFactory) -> tuple[SimpleTrainer, Path]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("run")
    trainer, _ = make_trainer(recorded, 0, folder)
    trainer.train(0, recorded.meta["iterations"])
    return trainer, folder


def tree(value: Any) -> Any:
    """Keys with the types of their values, as recorded."""
    if isinstance(value, dict):
        return {str(key): tree(item) for key, item in value.items()}
    return type(value).__name__


def assert_weights(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert list(found) and set(found) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)


def test_losses_rates_and_weights(recorded: Recorded, run: tuple[SimpleTrainer, Path]) -> None:
    trainer, _ = run
    names = [key.removeprefix("history/") for key in recorded.arrays if key.startswith("history/")]
    assert names
    for name in names:
        values, iterations = zip(*trainer.storage.history(name).values())
        np.testing.assert_array_equal(iterations, recorded.arrays[f"history_iter/{name}"])
        np.testing.assert_allclose(values, recorded.arrays[f"history/{name}"], rtol=1e-5, atol=1e-6, err_msg=name)
    assert_weights(trainer.model.state_dict(), recorded.weights("w_end/"))


def test_files_of_the_run(recorded: Recorded, run: tuple[SimpleTrainer, Path]) -> None:
    _, folder = run
    expected = recorded.checkpoint["trainer"]
    assert sorted(p.name for p in folder.iterdir()) == expected["files"]
    assert (folder / "last_checkpoint").read_text() == expected["last_checkpoint"]
    content = torch.load(folder / expected["last_checkpoint"], weights_only=expected["loads_with_weights_only"])
    assert list(content) == expected["top_level_keys"]
    assert tree(content) == expected["tree"]
    assert content["iteration"] == expected["iteration"]
    assert content["trainer"]["iteration"] == expected["trainer_iteration"]
    assert content["trainer"]["hooks"] == expected["hooks_state"]
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    metrics = recorded.checkpoint["metrics"]
    assert [line["iteration"] for line in lines] == metrics["iteration_per_line"]
    assert [sorted(line) for line in lines] == metrics["keys_per_line"]


def test_resume_of_a_finished_run(recorded: Recorded, run: tuple[SimpleTrainer, Path]) -> None:
    first, folder = run
    expected = recorded.checkpoint["resumed"]
    trainer, checkpointer = make_trainer(recorded, 0, folder)
    assert Path(checkpointer.get_checkpoint_file()).name == expected["file_used"]
    rest = checkpointer.resume_or_load("", resume=True)
    assert sorted(rest) == expected["returned_keys"]
    assert rest["iteration"] == expected["returned_iteration"]
    assert trainer.iter == expected["trainer_iter"]
    for name, value in first.model.state_dict().items():
        assert torch.equal(trainer.model.state_dict()[name], value) == expected["weights_equal"]
    for mine, theirs in zip(trainer.optimizer.state.values(), first.optimizer.state.values()):
        assert torch.equal(mine["momentum_buffer"], theirs["momentum_buffer"]) == expected["momentum_equal"]


def test_load_without_resume(recorded: Recorded, run: tuple[SimpleTrainer, Path]) -> None:
    _, folder = run
    expected = recorded.checkpoint["not_resumed"]
    trainer, checkpointer = make_trainer(recorded, 0, folder)
    rest = checkpointer.resume_or_load(str(folder / expected["file"]), resume=False)
    assert sorted(rest) == expected["returned_keys"]
    assert trainer.iter == expected["trainer_iter"]


def test_an_interrupted_run_ends_with_the_same_weights(
    recorded: Recorded, run: tuple[SimpleTrainer, Path], tmp_path: Path
) -> None:
    _, folder = run
    half = recorded.checkpoint["not_resumed"]["file"]
    (tmp_path / half).write_bytes((folder / half).read_bytes())
    (tmp_path / "last_checkpoint").write_text(half)
    start = int(half.removeprefix("model_").removesuffix(".pth")) + 1
    trainer, checkpointer = make_trainer(recorded, start, tmp_path)
    checkpointer.resume_or_load("", resume=True)
    trainer.train(trainer.iter + 1, recorded.meta["iterations"])
    assert_weights(trainer.model.state_dict(), recorded.weights("w_end/"))
    rates = [rate for rate, _ in trainer.storage.history("lr").values()]
    np.testing.assert_allclose(rates, recorded.arrays["history/lr"][start:], rtol=1e-9)
