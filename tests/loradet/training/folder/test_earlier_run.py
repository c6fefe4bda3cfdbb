"""A folder that a new run takes over, and a kill meanwhile."""

import json
import shutil
from pathlib import Path

import pytest

from loradet.run_folder import RunFolder
from loradet.training.earlier_run import check_output_dir, clear_folder, clear_temporary

FILES = [
    *("run.json", "metrics.json", "model_0000001.pth", "model_final.pth", "model_best.pth", "last_checkpoint"),
    *("val_metrics.json", "adapter.safetensors", "parameters.json", "operating_point.json"),
    "predictions/val/coco_instances_results.json",
]


class KilledError(BaseException):
    """Where a kill would end the process."""


@pytest.fixture
def finished(tmp_path):
    folder = tmp_path / "finished"
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    (folder / "run.json").write_text(json.dumps({"status": "finished", "config_sha256": "a"}))
    (folder / "last_checkpoint").write_text("model_final.pth")
    return folder


def test_a_run_whose_clearing_was_cut_short_is_still_to_be_cleared(finished, tmp_path, monkeypatch):
    """At every file: what is left is no run to go on from, none that is finished, and no fresh folder."""
    unlink = Path.unlink
    for cut in range(len(FILES) + 1):
        folder = shutil.copytree(finished, tmp_path / f"cut{cut}")
        left = [cut]

        def dying(path, *args, left=left, **kwargs):
            if left[0] == 0:
                raise KilledError
            left[0] -= 1
            unlink(path, *args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", dying)
            try:
                clear_folder(folder, keep_before=0)
            except KilledError:
                pass
            else:
                assert cut > 5
        run = RunFolder(folder)
        assert run.read_record() == {"status": "running"}
        last = run.last_checkpoint()
        assert last is None or (folder / last).is_file()
        assert check_output_dir(folder, resume=True, overwrite=False)
        clear_folder(folder, keep_before=0)
        assert {path.name for path in folder.rglob("*") if path.is_file()} == {"run.json"}


def test_a_config_that_was_being_written_is_removed(tmp_path):
    """Detectron2's own writer makes the temporary file of a file whose name begins with a dot already."""
    for name in ("..config.yaml.abcd_123.tmp", ".config.yaml.abcd_123.tmp", ".other.yaml.abcd_123.tmp"):
        (tmp_path / name).write_text("half")
    clear_temporary(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".other.yaml.abcd_123.tmp"]
