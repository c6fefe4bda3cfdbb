"""What of `train` makes one run another one: settings of the feature cache change nothing unless they round."""

import pytest
from omegaconf import OmegaConf

from loradet.experiments.results.consistency import config_differences
from loradet.training.folder.record import config_hash


def config(**cache):
    return {"train": {"max_iter": 9, "seed": 0, "output_dir": "runs/a", "feature_cache": cache}, "model": {"a": 1}}


PLAIN = {"enabled": False, "where": "disk", "folder": "work_dirs/feature_cache", "dtype": None, "max_gb": 50.0}


@pytest.mark.parametrize(
    ("cache", "rounds"),
    [
        ({}, False),
        ({"enabled": True, "where": "memory", "folder": "elsewhere", "max_gb": None}, False),
        ({"dtype": "bf16"}, False),  # of a cache that is off
        ({"enabled": True, "dtype": "bf16"}, True),
        ({"enabled": True, "dtype": "fp16"}, True),
    ],
)
def test_a_cache_that_rounds_makes_another_run(cache, rounds):
    plain, other = config(**PLAIN), config(**PLAIN | cache)
    assert (config_hash(OmegaConf.create(plain)) != config_hash(OmegaConf.create(other))) == rounds
    found = config_differences(plain, other)
    assert found == ([f"train.feature_cache.dtype: 'nothing' and {cache['dtype']!r}"] if rounds else [])


def test_runs_of_before_there_was_a_cache_are_the_same():
    old = config()
    del old["train"]["feature_cache"]
    assert config_hash(OmegaConf.create(old)) == config_hash(OmegaConf.create(config(**PLAIN)))
    assert config_differences(old, config(**PLAIN)) == []
