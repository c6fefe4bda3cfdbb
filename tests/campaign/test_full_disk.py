"""A disk that gets full, a folder that gets read only: one line, and the last good state goes on to the same end."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from campaign.file_faults import KINDS, lock_folder, mount_full, mount_small, unlock_folder, unmount
from campaign.killing import Campaign, console_of
from campaign.trainings import TRAININGS, differences, remains

SINGLE = TRAININGS[0]
CACHED = TRAININGS[-1]
REASONS = {
    "file size limit": ("File too large",),
    "full file system": ("No space left on device",),
    "read-only folder": ("Operation not permitted", "Permission denied"),
}
FILES = [
    *(".config.yaml", "parameters.json", "run.json", "metrics.json", "coco_instances_results.json", "model_best.pth"),
    *("model_0000003.pth", "last_checkpoint", "model_final.pth", "val_metrics.json", "adapter.safetensors"),
]


@pytest.fixture
def place(campaign: Campaign, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder for a run, on which the fault can be had."""
    place = campaign.new_place()
    kind = request.getfixturevalue("kind")
    if kind == "full file system":
        if not mount_small(place, 16):
            pytest.skip("mounting a small file system is not allowed here")
        yield place
        unmount(place)
        return
    if kind == "read-only folder":
        (place / "probe").mkdir()
        if not lock_folder(place / "probe"):
            pytest.skip("a folder that is read only for root too is not to be had here")
        unlock_folder(place / "probe")
    yield place
    for folder in (place, *place.glob("**/")):
        unlock_folder(folder)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FILES)
def test_a_training_says_what_it_cannot_write_and_goes_on(
    campaign: Campaign, place: Path, kind: str, name: str
) -> None:
    if kind == "read-only folder" and name == "metrics.json":
        pytest.skip("a file that is open is written on")
    whole = campaign.reference(SINGLE)
    outcome = campaign.run(SINGLE, place, fault=(kind, name))
    console = console_of(place).read_text()
    assert outcome.statuses == [1], console
    (line,) = [line for line in console.splitlines() if line.startswith("error")]
    path = f"predictions/val/{name}" if name.startswith("coco_") else name.removeprefix(".")
    # After the third line of metrics.json something else may be written before the fourth.
    named = r"\S+" if name == "metrics.json" else re.escape(path)
    reasons = "|".join(map(re.escape, REASONS[kind]))
    assert re.match(rf"error: {re.escape(str(place / 'out'))}/{named} cannot be written: ({reasons})\.", line), line
    assert "Traceback" not in console and "Exception ignored" not in console, console
    (place / "filler").unlink(missing_ok=True)
    for folder in place.glob("out/**/"):
        unlock_folder(folder)

    outcome = campaign.run(SINGLE, place, "--resume")
    assert outcome.succeeded, console_of(place).read_text()
    assert differences(remains(place / "out"), whole.left) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("begin", "end"),
    [(mount_full, unmount), (lock_folder, unlock_folder)],
    ids=["full file system", "read-only folder"],
)
def test_features_that_cannot_be_kept_change_nothing(
    campaign: Campaign, begin: Callable[[Path], bool], end: Callable[[Path], None]
) -> None:
    place = campaign.new_place()
    features = place / "features"
    features.mkdir()
    if not begin(features):
        pytest.skip("not to be had here")
    try:
        outcome = campaign.run(CACHED, place)
    finally:
        end(features)
    console = console_of(place).read_text()
    assert outcome.succeeded, console
    assert f"Features cannot be kept in {features}" in console
    assert differences(remains(place / "out"), campaign.reference(CACHED).left) == []
