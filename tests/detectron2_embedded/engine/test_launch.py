"""Several processes on one machine."""

import json
import subprocess
import sys
import textwrap
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from detectron2.engine import SimpleTrainer, create_ddp_model, launch
from detectron2.utils import comm
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from detectron2_embedded import is_embedded

TIMEOUT = timedelta(seconds=60)


class Loss(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(3, 1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": self.fc(x).square().mean()}


def batches(rank: int, steps: int) -> list[torch.Tensor]:
    return [torch.randn(4, 3, generator=torch.Generator().manual_seed(10 * i + rank)) for i in range(steps)]


def test_one_process_stays_here() -> None:
    seen: list[tuple] = []
    launch(lambda *args: seen.append(args), 1, args=(1, "x"), dist_url="auto")
    assert seen == [(1, "x")]


def test_auto_is_for_one_machine() -> None:
    with pytest.raises(AssertionError):
        launch(print, 1, num_machines=2, dist_url="auto")


def _train(folder: str, runs: dict[str, int | None], options: dict[str, object]) -> None:
    rank = comm.get_rank()
    for name, bad_rank in runs.items():
        data = batches(rank, 4)
        if rank == bad_rank:
            data[2] = data[2] * float("nan")
        model = create_ddp_model(Loss(), broadcast_buffers=False, **options)
        report = {"wrapped": isinstance(model, DistributedDataParallel), "error": None}
        trainer = SimpleTrainer(model, data, torch.optim.SGD(model.parameters(), lr=0.1))
        try:
            trainer.train(0, 4)
        except FloatingPointError as error:
            report["error"] = str(error)
        report["weight"] = model.module.fc.weight.tolist()
        if rank == 0:
            report["losses"] = [value for value, _ in trainer.storage.history("total_loss").values()]
        Path(folder, f"{name}{rank}.json").write_text(json.dumps(report))


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict]]:
    folder = tmp_path_factory.mktemp("two_processes")
    runs: dict[str, int | None] = {"good": None}
    options: dict[str, object] = {}
    if is_embedded():
        runs["bad"] = 1
    else:
        # Detectron2 0.6 takes a GPU for granted, and stops rank 0 alone where a loss is NaN.
        options["device_ids"] = None
    launch(_train, 2, dist_url="auto", args=(str(folder), runs, options), timeout=TIMEOUT)
    return {name: [json.loads((folder / f"{name}{rank}.json").read_text()) for rank in range(2)] for name in runs}


def test_two_processes_train_as_one_with_the_mean_gradient(reports: dict[str, list[dict]]) -> None:
    first, second = reports["good"]
    assert first["wrapped"]
    assert first["error"] is second["error"] is None
    assert first["weight"] == second["weight"]
    model = Loss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for x, y in zip(batches(0, 4), batches(1, 4)):
        loss = (model(x)["loss"] + model(y)["loss"]) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert first["losses"] == pytest.approx(losses, rel=1e-5)
    torch.testing.assert_close(torch.tensor(first["weight"]), model.fc.weight.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.subset
def test_nan_on_one_process_stops_both(reports: dict[str, list[dict]]) -> None:
    for report in reports["bad"]:
        assert "iteration 2" in report["error"]
        assert "process 1" in report["error"]


@pytest.mark.slow
def test_a_script_that_launches(tmp_path: Path) -> None:
    """Runs on one host at the same time meet at ports of their own; a failing process fails its run."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import sys
            import detectron2_embedded
            from detectron2.engine import launch
            from detectron2.utils import comm

            def main(name):
                assert comm.all_gather(name) == [name, name]
                if name == "bad" and comm.get_rank() == 1:
                    raise RuntimeError("went wrong")
                comm.synchronize()

            if __name__ == "__main__":
                launch(main, 2, dist_url="auto", args=(sys.argv[1],))
            """
        )
    )
    runs = {
        name: subprocess.Popen([sys.executable, str(script), name], stderr=subprocess.PIPE, text=True)
        for name in ("good", "bad")
    }
    errors = {name: process.communicate(timeout=120)[1] for name, process in runs.items()}
    assert runs["good"].returncode == 0, errors["good"]
    assert runs["bad"].returncode != 0
    assert "went wrong" in errors["bad"]
