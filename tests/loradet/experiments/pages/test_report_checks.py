"""Runs that do not belong into one table are one clear error, and nothing is written; a broken one is a row."""

import json
from dataclasses import replace

import pytest
import yaml
from helpers.report_runs import absent, entry, finished, study

from loradet.experiments.pages.report import write_report

FIRST, SECOND = entry("E1", seeds=(0, 1)), entry("E2")
STUDY = study(FIRST, SECOND)


@pytest.fixture
def output(tmp_path):
    """A folder with a report that must stay as it is."""
    folder = tmp_path / "report"
    (folder / "plots").mkdir(parents=True)
    for name in ("report.tsv", "report.md", "report.html", "plots/curves_loss.png"):
        (folder / name).write_text("an earlier one")
    return folder


def refused(results, output) -> str:
    """The error's message; the earlier report is untouched."""
    with pytest.raises(ValueError) as error:
        write_report(STUDY, results, output)
    files = [path for path in output.rglob("*") if path.is_file()]
    assert len(files) == 4
    assert all(path.read_text() == "an earlier one" for path in files)
    return str(error.value)


def broken_row(results, output) -> str:
    """What the report says of the one broken run among others; the numbers of the others are there."""
    write_report(STUDY, results, output)
    plain = json.loads((output / "results.json").read_text())
    (row,) = [run for run in plain["runs"] if run["state"] == "broken"]
    assert row["metrics"] == {}
    text = (output / "report.md").read_text()
    assert "| broken " in text
    assert f"{len(results) - 1} of {len(results)} runs are finished" in text
    return row["detail"]


def change(result, **keys):
    """Change the run's config by dotted keys."""
    path = result.folder / "config.yaml"
    config = yaml.safe_load(path.read_text())
    for key, value in keys.items():
        *parents, last = key.split("__")
        node = config
        for name in parents:
            node = node.setdefault(name, {})
        node[last] = value
    path.write_text(yaml.safe_dump(config))


@pytest.mark.parametrize("keep", ["half of the last line", "half of the file"])
def test_a_metrics_file_cut_in_half(tmp_path, output, keep):
    run = finished(tmp_path, FIRST)
    path = run.folder / "metrics.json"
    whole = path.read_bytes()
    path.write_bytes(whole[:-10] if keep == "half of the last line" else whole[: len(whole) // 2])
    message = broken_row([run, finished(tmp_path, SECOND)], output)
    assert message.startswith(f"E1: {path} is cut or damaged: line ")
    assert "run that seed again" in message


def test_a_metrics_file_cut_between_two_lines(tmp_path, output):
    run = finished(tmp_path, FIRST)
    path = run.folder / "metrics.json"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:6]))
    message = broken_row([run, finished(tmp_path, FIRST, 1)], output)
    assert message.startswith(f"E1: {path} is cut: it ends at iteration 29, the finished run at 59.")


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"[1, 2]\n"])
def test_a_metrics_file_that_is_none(tmp_path, output, content):
    run = finished(tmp_path, FIRST)
    (run.folder / "metrics.json").write_bytes(content)
    message = broken_row([run, finished(tmp_path, SECOND)], output)
    assert message.startswith(f"E1: {run.folder / 'metrics.json'} is ")


def test_the_cut_log_of_a_run_that_goes_on_is_no_error(tmp_path):
    run = replace(finished(tmp_path, FIRST), state="running", metrics={})
    (run.folder / "metrics.json").write_text('{"iteration": 4, "total')
    assert write_report(STUDY, [run], tmp_path / "report")


def test_seeds_that_differ_in_more_than_the_seed(tmp_path, output):
    runs = [finished(tmp_path, FIRST, seed) for seed in (0, 1)]
    change(runs[1], optimizer__lr=2e-4, model__rank=8)
    message = refused(runs, output)
    assert message.startswith("E1: its runs E1_full_seed0 and E1_full_seed1 differ in more than the seed: ")
    assert "optimizer.lr: 0.0001 and 0.0002" in message
    assert "model.rank: 'nothing' and 8" in message


def test_a_third_seed_is_compared_too(tmp_path, output):
    runs = [finished(tmp_path, FIRST, seed) for seed in (0, 1, 2)]
    change(runs[2], train__amp={"enabled": False})
    assert "E1_full_seed0 and E1_full_seed2" in (message := refused(runs, output))
    assert "train.amp.enabled: True and False" in message


def test_what_follows_from_the_seed_and_where_files_lie_may_differ(tmp_path):
    runs = [finished(tmp_path, FIRST, seed) for seed in (3, 4)]
    change(runs[0], model__init_seed=13, train__max_batch_per_gpu=2, evaluator__folder=f"{runs[0].folder}/predictions")
    change(runs[1], model__init_seed=14, train__log_period=1, evaluator__folder=f"{runs[1].folder}/predictions")
    change(runs[1], data={"root": "/other"}, dataloader__train__json="/other/train.json")
    assert write_report(STUDY, runs, tmp_path / "report")


def test_a_seed_that_does_not_follow_is_an_error(tmp_path, output):
    runs = [finished(tmp_path, FIRST, seed) for seed in (0, 1)]
    change(runs[1], dataloader__train__seed=5)
    assert "dataloader.train.seed: 0 and 5" in refused(runs, output)


def test_same_config_with_other_parameters(tmp_path, output):
    runs = [finished(tmp_path, FIRST, seed, trainable=n) for seed, n in ((0, 9_500_000), (1, 9_600_000))]
    message = refused(runs, output)
    assert "E1" in message
    assert "not the same numbers of parameters" in message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "does not exist"),
        ("optimizer:\n  lr: 1", "no `train` section; is it cut"),
        ("train: [1, 2", "is no config of a run"),
        ("train: !!python/object/apply:os.system ['true']", "is no config of a run"),
    ],
)
def test_a_config_that_cannot_be_compared(tmp_path, output, content, words):
    runs = [finished(tmp_path, FIRST, seed) for seed in (0, 1)]
    path = runs[1].folder / "config.yaml"
    path.unlink() if content is None else path.write_text(content)
    message = broken_row(runs, output)
    assert message.startswith(f"E1: {path} ")
    assert words in message


def test_runs_on_different_data(tmp_path, output):
    runs = [finished(tmp_path, FIRST), finished(tmp_path, SECOND, fingerprint="bbbb")]
    message = refused(runs, output)
    assert message.startswith(
        "E1 (E1_full_seed0) and E2 (E2_full_seed0) do not stand on the same train data: /train.json "
        "(fingerprint aaaa, 40 images, not synthetic) and /train.json (fingerprint bbbb, 40 images, not synthetic)."
    )


def test_synthetic_beside_real_images(tmp_path, output):
    runs = [finished(tmp_path, FIRST, synthetic=True), finished(tmp_path, SECOND)]
    assert "40 images, synthetic) and" in refused(runs, output)
    runs = [replace(run, record={}) for run in runs]
    assert "data that its run.json does not describe, synthetic" in refused(runs, output)


def test_smoke_runs_are_judged_apart(tmp_path):
    runs = [finished(tmp_path, FIRST), finished(tmp_path, FIRST, mode="smoke", fingerprint="bbbb", synthetic=True)]
    change(runs[1], train__max_iter=25)
    assert write_report(STUDY, [*runs, absent(tmp_path, SECOND)], tmp_path / "report")
