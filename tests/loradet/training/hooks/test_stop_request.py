"""A file `stop` in a run folder ends its training, saved; the training goes on afterwards."""

import pytest
from helpers.train_tool import arguments, call, lines, succeed

from loradet.datasets.synthetic import generate
from loradet.run_folder import RunFolder


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_file_stops_a_training_that_can_be_gone_on_with(tmp_path, processes):
    data = generate(tmp_path / "scenes", size=64, counts={"train": 6, "val": 2})
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    folder.stop.touch()
    words = arguments(data, folder.path, "train.max_iter=4", "train.log_period=2", "--num-gpus", processes)
    status, stderr = call(*words)
    assert status == 130, stderr
    assert not folder.stop.exists()
    assert [line["iteration"] for line in lines(folder.path)] == [1, 2]  # asked after the second step
    assert folder.read_record()["status"] == "interrupted"
    assert f"Asked to stop by {folder.stop}" in folder.log.read_text()
    if processes == 1:
        succeed(*words, "--resume")
        assert folder.read_record()["status"] == "finished"
