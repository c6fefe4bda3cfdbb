"""Steps with and without kept features in pairs: equal losses first, then seconds."""

import pytest
from helpers.benchmark_tool import tool
from helpers.paths import TEST_CONFIGS

from loradet.benchmarks import feature_cache
from loradet.benchmarks.feature_cache import benchmark_cache
from loradet.benchmarks.training_step import RandomImages
from loradet.config import load_config
from loradet.errors import UserError
from loradet.feature_cache.layout import Layout

WORDS = ["model.num_classes=3", "train.device=cpu"]
IMAGES = RandomImages(64, 64, 3)


def config(*words, file="tiny_cached.py"):
    return load_config(str(TEST_CONFIGS / file), [*WORDS, *words])


@pytest.mark.parametrize("words", [(), ("train.accumulate=2",)])
def test_figures_are_of_both_sides_and_of_the_frozen_part(words):
    found = benchmark_cache(config(*words), pairs=3, warmup=1, images=IMAGES, cpu_time=True)
    assert found["largest_loss_difference"] <= 1e-5 and found["pairs"] == 3
    assert found["s/iter"] > 0 and 0 < found["frozen_share"] < 1
    assert found["wanted_ratio"] == pytest.approx(1.05 * (1 - found["frozen_share"]))
    assert found["mb_per_image"] == pytest.approx(4 * (16 * 8 * 8 + 24 * 4 * 4 + 32 * 2 * 2) / 1e6)


def test_other_losses_are_not_measured(monkeypatch):
    own = Layout.batch
    doubled = lambda *args: {name: 2 * tensor for name, tensor in own(*args).items()}  # noqa: E731
    monkeypatch.setattr(Layout, "batch", doubled)
    monkeypatch.setattr(feature_cache, "interleave", lambda *_, **__: pytest.fail("measured"))
    with pytest.raises(UserError, match="Losses with and without kept features differ"):
        benchmark_cache(config(), pairs=1, warmup=0, images=IMAGES)


def test_nothing_to_keep_is_an_error():
    with pytest.raises(UserError, match="nothing of backbone"):
        benchmark_cache(config(file="tiny.py"), pairs=1, warmup=0, images=IMAGES)


def test_seconds_of_the_process_are_an_option_of_this_part(capsys):
    words = ["cache", "--config-file", "a.py", "--cpu-time"]
    assert tool.parse_arguments(words).cpu_time and tool.parse_arguments(words).steps == 50
    with pytest.raises(SystemExit):
        tool.parse_arguments(["train", *words[1:]])
    assert "--cpu-time goes with cache" in capsys.readouterr().err
