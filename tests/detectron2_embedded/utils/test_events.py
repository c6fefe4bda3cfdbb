"""Event storage and writers."""

import builtins
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.utils.events import (
    CommonMetricPrinter,
    EventStorage,
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
    get_event_storage,
    has_event_storage,
)
from hypothesis import given, settings
from hypothesis import strategies as st


@pytest.fixture(scope="module")
def golden(golden_d2: Path) -> dict[str, Any]:
    return json.loads((golden_d2 / "events.json").read_text())


def put(storage: EventStorage, iteration: int, name: str, value: float, options: dict[str, Any]) -> None:
    storage.iter = iteration
    scope, slash, rest = name.rpartition("/")
    if slash and scope.startswith("stage"):
        with storage.name_scope(scope):
            storage.put_scalar(rest, value, **options)
    else:
        storage.put_scalar(name, value, **options)


def pairs(found: dict[str, tuple]) -> dict[str, list]:
    return {name: list(value) for name, value in found.items()}


@pytest.mark.golden
def test_replay(golden: dict[str, Any], tmp_path: Path) -> None:
    window = golden["window_size"]
    path = tmp_path / "metrics.json"
    writer = JSONWriter(str(path), window_size=window)
    expected = iter(golden["snapshots"])
    seen_iterations = set()
    with EventStorage(golden["start_iter"]) as storage:
        for operation, iteration, *rest in golden["operations"]:
            if operation == "put_scalar":
                put(storage, iteration, *rest)
                continue
            storage.iter = iteration
            writer.write()
            if iteration in seen_iterations:
                continue
            seen_iterations.add(iteration)
            snapshot = next(expected)
            assert snapshot["iter"] == storage.iter
            assert pairs(storage.latest()) == snapshot["latest"]
            assert pairs(storage.latest_with_smoothing_hint(window)) == snapshot["latest_with_smoothing_hint"]
            counts = {name: storage.count_samples(name, window) for name in storage.histories()}
            assert counts == snapshot["count_samples"]
        history = storage.history("total_loss")
    writer.close()
    assert next(expected, None) is None
    assert path.read_text().splitlines() == golden["metrics_json"]
    final = golden["history_total_loss"]
    assert history.latest() == final["latest"]
    assert history.median(4) == pytest.approx(final["median_4"], rel=1e-12)
    assert history.avg(4) == pytest.approx(final["avg_4"], rel=1e-12)
    assert history.global_avg() == pytest.approx(final["global_avg"], rel=1e-12)
    assert [list(v) for v in history.values()] == final["values"]


@pytest.mark.golden
def test_errors(golden: dict[str, Any]) -> None:
    def mixed_hints() -> None:
        with EventStorage() as storage:
            storage.put_scalar("a", 1)
            storage.put_scalar("a", 1, smoothing_hint=False)

    calls = {
        "get_event_storage outside a storage": get_event_storage,
        "history of an unknown name": lambda: EventStorage().history("nothing"),
        "put_scalar with another smoothing_hint": mixed_hints,
    }
    for name, names in golden["errors"].items():
        with pytest.raises(getattr(builtins, names[0])):
            calls[name]()
    assert not has_event_storage()


def test_storages_nest() -> None:
    with EventStorage(3) as outer:
        assert get_event_storage() is outer
        with EventStorage() as inner:
            assert get_event_storage() is inner
        assert get_event_storage() is outer
        outer.step()
        assert outer.iter == outer.iteration == 4


def test_cur_iter_and_name_scopes() -> None:
    with EventStorage(10) as storage:
        with storage.name_scope("a"):
            storage.put_scalars(x=1, y=torch.tensor(2.0), cur_iter=7)
        storage.put_scalar("x", 3)
        assert storage.latest() == {"a/x": (1.0, 7), "a/y": (2.0, 7), "x": (3.0, 10)}
        assert storage.smoothing_hints() == {"a/x": True, "a/y": True, "x": True}


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.floats(-100, 100)), min_size=1, max_size=30), st.integers(1, 12))
def test_smoothing_is_the_median_of_the_last_iterations(steps: list[tuple[int, float]], window: int) -> None:
    storage = EventStorage()
    values: list[tuple[int, float]] = []
    iteration = 0
    for step, value in steps:
        iteration += step
        values.append((iteration, value))
        storage.put_scalar("loss", value, cur_iter=iteration)
    inside = [value for i, value in values if i > iteration - window]
    assert storage.count_samples("loss", window) == len(inside)
    assert storage.latest_with_smoothing_hint(window)["loss"] == (np.median(inside), iteration)


def test_json_writer_appends(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    for start in (0, 5):
        writer = JSONWriter(str(path))
        with EventStorage(start) as storage:
            storage.put_scalar("loss", start)
            writer.write()
            writer.write()
        writer.close()
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"iteration": 0, "loss": 0.0},
        {"iteration": 5, "loss": 5.0},
    ]


def test_tensorboard_events_read_back(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    writer = TensorboardXWriter(str(tmp_path), window_size=2)
    with EventStorage() as storage:
        for i in range(4):
            storage.iter = i
            storage.put_scalar("loss", i)
            storage.put_scalar("lr", 0.5, smoothing_hint=False)
            if i == 2:
                storage.put_image("picture", np.zeros((3, 4, 5), dtype=np.uint8))
                storage.put_histogram("weights", torch.arange(10.0), bins=5)
            writer.write()
        writer.write()
    writer.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(0, 0), (1, 0.5), (2, 1.5), (3, 2.5)]
    assert [(e.step, e.value) for e in events.Scalars("lr")] == [(i, 0.5) for i in range(4)]
    (image,) = events.Images("picture")
    assert (image.step, image.height, image.width) == (2, 4, 5)
    (histogram,) = events.Histograms("weights")
    assert histogram.histogram_value.num == 10
    assert histogram.histogram_value.sum == 45


def test_no_tensorboard_file_before_there_is_something_to_write(tmp_path: Path) -> None:
    writer = TensorboardXWriter(str(tmp_path))
    with EventStorage() as storage:
        writer.write()
        assert not list(tmp_path.iterdir())
        storage.put_scalar("loss", 1.0)
        writer.write()
        assert len(list(tmp_path.iterdir())) == 1
    writer.close()
    other = TensorboardXWriter(str(tmp_path / "other"))
    other.close()
    assert not (tmp_path / "other").exists()


def test_an_image_alone_is_written(tmp_path: Path) -> None:
    writer = TensorboardXWriter(str(tmp_path))
    with EventStorage() as storage:
        storage.put_image("picture", np.zeros((3, 4, 5), dtype=np.uint8))
        writer.write()
    writer.close()
    assert len(list(tmp_path.iterdir())) == 1


def test_metric_printer(caplog: pytest.LogCaptureFixture) -> None:
    printer = CommonMetricPrinter(max_iter=100, window_size=5)
    with caplog.at_level(logging.INFO, logger="detectron2"), EventStorage() as storage:
        for i in range(20):
            storage.iter = i
            storage.put_scalars(total_loss=2.0, loss_cls=1.5, time=2.0, data_time=0.25)
            storage.put_scalar("lr", 1e-3, smoothing_hint=False)
        printer.write()
        # 80 iterations of 2 s are left.
        for part in ("eta: 0:02:40", "iter: 19", "total_loss: 2", "loss_cls: 1.5", "time: 2.0000", "data_time: 0.25"):
            assert part in caplog.text
        assert "lr: 0.001" in caplog.text
        assert storage.latest()["eta_seconds"][0] == 160.0
        caplog.clear()
        storage.iter = 100
        printer.write()
        assert not caplog.text


def printed(caplog: pytest.LogCaptureFixture, printer: CommonMetricPrinter) -> str:
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="detectron2"):
        printer.write()
    return caplog.messages[-1]


def test_metric_printer_shows_what_is_marked_as_metric(caplog: pytest.LogCaptureFixture) -> None:
    # Detectron2 0.6, main of 2026-06-06: medians over the window, behind the losses.
    with EventStorage() as storage:
        for i, value in enumerate([9.0, 1.0, 2.0, 6.0]):
            storage.iter = i
            storage.put_scalar("[metric]grad_norm", value)
            storage.put_scalar("stage1/[metric]x", 1.0, smoothing_hint=False)
            storage.put_scalar("accuracy", 0.5)
            storage.put_scalar("total_loss", 3.0)
        line = printed(caplog, CommonMetricPrinter(window_size=3))
    assert "total_loss: 3  [metric]grad_norm: 2  stage1/[metric]x: 1" in line
    assert "accuracy" not in line


def test_metric_printer_averages(caplog: pytest.LogCaptureFixture) -> None:
    # Detectron2 0.6, main of 2026-06-06: seconds an iteration over all of them, waiting for data over the window.
    with EventStorage() as storage:
        for i, seconds in enumerate([7.0, 1.0, 2.0, 6.0]):
            storage.iter = i
            storage.put_scalars(time=seconds, data_time=seconds)
        line = printed(caplog, CommonMetricPrinter(window_size=2))
    for part in ("time: 4.0000", "last_time: 6.0000", "data_time: 4.0000", "last_data_time: 6.0000", "lr: N/A"):
        assert part in line
    assert "eta" not in line


def test_writer_must_say_how() -> None:
    with pytest.raises(NotImplementedError):
        EventWriter().write()
