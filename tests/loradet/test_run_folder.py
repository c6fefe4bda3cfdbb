"""Names of a run's files, which users, tools and tests of other projects rely on."""

import pytest

from loradet.errors import UserError
from loradet.run_folder import RunFolder


def test_names_do_not_change(tmp_path):
    run = RunFolder(str(tmp_path))
    assert run == RunFolder(tmp_path) and run.path == tmp_path
    files = [run.config, run.log, run.metrics, run.record, run.parameters, run.best, run.adapter, run.last]
    assert [file.relative_to(tmp_path).as_posix() for file in files] == [
        *("config.yaml", "log.txt", "metrics.json", "run.json", "parameters.json", "model_best.pth"),
        *("adapter.safetensors", "last_checkpoint"),
    ]
    assert run.checkpoint(99) == tmp_path / "model_0000099.pth"
    assert run.split_metrics("val") == tmp_path / "val_metrics.json"
    assert run.split_metrics("val", smoke=True) == tmp_path / "smoke_metrics.json"
    assert run.predictions("val") == tmp_path / "predictions/val/coco_instances_results.json"
    assert run.evaluation("elsewhere/model_final.pth").split_metrics("test") == (
        tmp_path / "eval_model_final" / "test_metrics.json"
    )


def test_what_a_run_can_go_on_from(tmp_path):
    run = RunFolder(tmp_path)
    assert run.last_checkpoint() is None and run.checkpoints() == []
    for name in ("model_final.pth", "model_0000009.pth", "model_best.pth", "other.pth"):
        (tmp_path / name).touch()
    run.last.write_text("model_0000009.pth\n")
    assert run.last_checkpoint() == "model_0000009.pth"
    assert [file.name for file in run.checkpoints()] == ["model_0000009.pth", "model_final.pth"]
    run.last.write_bytes(b"")
    assert run.last_checkpoint() is None


def test_a_record_is_an_object_or_an_error_that_names_it(tmp_path):
    run = RunFolder(tmp_path)
    assert run.read_record() == {}
    run.record.write_text('{"status": "finished"}')
    assert run.read_record()["status"] == "finished"
    run.record.write_text("[1]")
    with pytest.raises(UserError, match=r"run\.json holds a list .*Delete it if the run does not matter"):
        run.read_record()
