"""Steps in Ray Train against torchrun's."""

import pytest
from helpers.train_tool import CONFIG

from loradet.benchmarks import ray_step
from loradet.datasets.synthetic import generate


@pytest.mark.slow
def test_a_pair_of_trainings(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    data = generate(tmp_path / "scenes", size=64, counts={"train": 12, "val": 4})
    words = [f"data.root={data}", "train.device=cpu", "dataloader.train.num_workers=0"]
    found = ray_step.benchmark_ray(str(CONFIG), words, workers=1, pairs=1, steps=21)
    assert 0 < found["ray_s_per_iter"] < 60 and 0 < found["torchrun_s_per_iter"] < 60
    assert found["median_ratio"] == pytest.approx(found["ray_s_per_iter"] / found["torchrun_s_per_iter"])


@pytest.mark.parametrize(("words", "said"), [(["--steps", "19"], "needs 20 steps"), (["--pairs", "0"], "at least 1")])
def test_sizes_that_make_no_sense(words, said, capsys):
    with pytest.raises(SystemExit):
        ray_step.main(["--config-file", "quickstart", *words])
    assert said in capsys.readouterr().err
