"""A search from its first trial to its last, interrupted and gone on with, over an executor that only pretends."""

import json

import pytest
from helpers.search_trial import ALPHA, LR, RANK, SPACE, PretendingExecutor, height, write_search

from loradet.config import load_config
from loradet.errors import UserError
from loradet.experiments.search.command import write_results
from loradet.experiments.search.definition import load_search
from loradet.experiments.search.running import Searching
from loradet.experiments.search.runs import TrialRuns
from loradet.experiments.search.state import check_same, objective_of
from loradet.experiments.search.trial import Trial, read_trials, write_trial
from loradet.files import FileError
from loradet.run_folder import RunFolder
from loradet.training.folder import record

pytest.importorskip("optuna")


def carry_out(file, *executors, **options):
    """One session; the trials that there are then."""
    folder = file.parent / "tiny_search"
    runs, trials = TrialRuns(load_search(file), folder), read_trials(folder)
    check_same(runs.search, folder, runs.base)
    Searching(runs, objective_of(runs.base), trials, executors, poll_s=0.01, **options).carry_out()
    assert trials == read_trials(folder)
    return trials


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A search in one go."""
    file = write_search(tmp_path_factory.mktemp("whole"), trials=2, prune=False)
    return file, carry_out(file, PretendingExecutor())


def test_every_trial_is_a_run_with_its_point(whole):
    file, trials = whole
    assert [trial.state for trial in trials] == ["finished"] * 2
    for trial in trials:
        config = load_config("tests/configs/tiny.py", trial.words)
        assert config.optimizer.lr == trial.point[LR]
        assert config.model.backbone.bottom_up.rank == trial.point[RANK]
        assert config.model.backbone.bottom_up.alpha == 2 * trial.point[RANK]
        assert trial.value == pytest.approx(height(config))
        assert trial.evaluations == pytest.approx([trial.value * part for part in (0.25, 0.5, 0.75, 1.0)])
        assert (file.parent / "tiny_search" / trial.run / "run.json").is_file()


@pytest.mark.slow
def test_bad_trials_are_stopped_and_are_not_failed(tmp_path):
    file = write_search(tmp_path, trials=6, prune={"startup_trials": 2})
    trials = carry_out(file, PretendingExecutor(pause_s=0.1))
    stopped = [trial for trial in trials if trial.state == "pruned"]
    finished = [trial for trial in trials if trial.state == "finished"]
    assert len(stopped) + len(finished) == 6
    assert stopped
    assert all(trial.state == "finished" for trial in trials[:2])
    best = max(finished, key=lambda trial: trial.value)
    for trial in stopped:
        assert trial.detail.startswith("stopped after evaluation ")
        assert max(trial.evaluations) < best.value
        folder = RunFolder(file.parent / "tiny_search" / trial.run)
        assert folder.read_record()["status"] == "interrupted"
        assert not folder.stop.exists()
    executor = PretendingExecutor()
    assert carry_out(file, executor) == trials
    assert executor.carried_out == []


def test_what_was_interrupted_goes_on(tmp_path):
    file = write_search(tmp_path, trials=1, prune=False)
    trials = carry_out(file, PretendingExecutor(lambda _: "interrupted"))
    assert [trial.state for trial in trials] == ["open"]
    executor = PretendingExecutor()
    again = carry_out(file, executor)
    assert [trial.state for trial in again] == ["finished"]
    assert [trial.point for trial in again] == [trial.point for trial in trials]
    assert executor.carried_out == ["trial_000_full"]


@pytest.mark.slow
def test_a_trial_that_diverges_counts_and_the_search_goes_on(tmp_path):
    file = write_search(tmp_path, trials=2, prune=False)
    error = "NonFiniteLossError: Loss or gradient is not finite at iteration 7"
    trials = carry_out(file, PretendingExecutor(lambda run: error if "000" in run.name else "finished"))
    assert [trial.state for trial in trials] == ["diverged", "finished"]
    assert "iteration 7" in trials[0].detail


@pytest.mark.slow
def test_a_trial_that_fails_is_tried_once_more(tmp_path):
    file = write_search(tmp_path, trials=3, prune=False)
    broken = PretendingExecutor(lambda run: "OSError: no space" if "001" in run.name else "finished")
    trials = carry_out(file, broken)
    assert [trial.state for trial in trials] == ["finished", "open", "finished"]
    assert carry_out(file, PretendingExecutor())[1].state == "finished"


@pytest.mark.slow
def test_a_trial_that_fails_twice_is_given_up(tmp_path):
    file = write_search(tmp_path, trials=2, prune=False)
    for _ in range(2):
        trials = carry_out(file, PretendingExecutor(lambda run: "OSError: no" if "000" in run.name else "finished"))
    assert [trial.state for trial in trials] == ["failed", "finished"]
    assert "no" in trials[0].detail
    executor = PretendingExecutor()
    carry_out(file, executor)
    assert executor.carried_out == []


@pytest.mark.slow
def test_a_search_whose_trials_all_fail_stops(tmp_path):
    file = write_search(tmp_path, trials=9, prune=False)
    executor = PretendingExecutor(lambda _: "OSError: nothing works")
    assert len(carry_out(file, executor)) == len(executor.carried_out) == 3


@pytest.mark.slow
def test_two_trials_at_a_time(tmp_path):
    file = write_search(tmp_path, trials=4, prune=False)
    slots = [PretendingExecutor(pause_s=0.05), PretendingExecutor(pause_s=0.05)]
    trials = carry_out(file, *slots)
    assert [trial.state for trial in trials] == ["finished"] * 4
    assert all(slot.carried_out for slot in slots)


@pytest.mark.slow
def test_bounds_may_move_and_choices_may_come(tmp_path):
    before = carry_out(write_search(tmp_path, trials=2, prune=False), PretendingExecutor())
    space = {**SPACE, LR: {"loguniform": [1e-1, 1.0]}, RANK: {"choice": [2, 4, 8, 16]}}
    trials = carry_out(write_search(tmp_path, trials=4, prune=False, space=space), PretendingExecutor())
    assert trials[:2] == before
    assert all(0.1 <= trial.point[LR] <= 1 for trial in trials[2:])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"overrides": ["train.max_iter=3"]}, "holds trials of another config: .*max_iter"),
        ({"space": {RANK: SPACE[RANK], ALPHA: SPACE[ALPHA]}}, "trials of other keys are there"),
        ({"space": {**SPACE, RANK: {"choice": [3]}}}, "which is none of choice"),
        ({"seed": 1}, "holds trials of another config: .*train.seed is 1, was 0"),
    ],
)
def test_trials_that_cannot_be_compared_are_not_mixed(tmp_path, values, expected):
    before = carry_out(write_search(tmp_path, trials=1, prune=False), PretendingExecutor())
    with pytest.raises(UserError, match=expected):
        carry_out(write_search(tmp_path, trials=3, prune=False, **values), PretendingExecutor())
    assert read_trials(tmp_path / "tiny_search") == before


def test_a_broken_trial_file_is_named(tmp_path):
    write_trial(tmp_path, Trial(number=0, run="trial_000_full", point={LR: 1e-3}, words=[], state="finished"))
    path = RunFolder(tmp_path / "trial_000_full").trial
    whole = path.read_text()
    for broken, expected in (
        (whole[:50], "is cut short"),
        (whole.replace('"finished"', '"done"'), "state is 'done'"),
        (whole.replace('"number": 0', '"number": "0"'), "number is '0'; expected a whole number"),
        (whole.replace('"run": "trial_000_full"', '"run": "other"'), "run is 'other'"),
    ):
        path.write_text(broken)
        with pytest.raises(FileError, match=expected):
            read_trials(tmp_path)


def test_the_best_is_a_config_and_the_page_says_what_it_is_worth(whole):
    file, trials = whole
    folder = file.parent / "tiny_search"
    runs = TrialRuns(load_search(file), folder)
    write_results(runs, objective_of(runs.base), trials)
    best = max(trials, key=lambda trial: trial.value)
    made = load_config(str(folder / "best.py"), [])
    past = record.read(folder / best.run)
    assert record.config_hash(made) == past["config_sha256"]
    assert made.train.output_dir == str(file.parent / "tiny_best")
    page = (folder / "search.md").read_text()
    assert "is optimistic: it is the best of 2 finished trials" in page
    assert "No other split was evaluated" in page
    content = json.loads((folder / "trials.json").read_text())
    assert content["best"] == best.number
    assert content["trials"][best.number]["ap"] == {"val": pytest.approx(best.value / 100)}
    html = (folder / "search.html").read_text()
    assert html.count("<figure>") == 2
    row = next(line for line in page.splitlines() if line.startswith("| **"))
    assert best.run in row.replace("\\", "")


def test_two_trials_of_one_number_are_an_error(tmp_path):
    for run in ("trial_000_full", "copy"):
        write_trial(tmp_path, Trial(number=0, run=run, point={}, words=[]))
    with pytest.raises(FileError, match="both say that they are trial 0"):
        read_trials(tmp_path)


def test_an_executor_that_breaks_down_ends_the_search(tmp_path):
    """What is no user's mistake comes out, and nobody waits for the run that it came from."""

    def broken(runs):
        raise RuntimeError("the head node is lost")
        yield runs

    with pytest.raises(RuntimeError, match="head node"):
        carry_out(write_search(tmp_path, trials=1, prune=False), broken)
