"""Index streams of samplers, as Detectron2 gives them."""

import builtins
import itertools
import json
from pathlib import Path

import pytest
import torch
from detectron2.data.samplers import InferenceSampler, RepeatFactorTrainingSampler, TrainingSampler
from detectron2.utils import comm

pytestmark = pytest.mark.golden


@pytest.fixture(scope="module")
def recorded(golden_d2: Path) -> dict:
    return json.loads((golden_d2 / "samplers.json").read_text(encoding="utf-8"))


@pytest.fixture
def pretend(monkeypatch):
    def as_rank(case: dict) -> None:
        monkeypatch.setattr(comm, "get_rank", lambda: case["rank"])
        monkeypatch.setattr(comm, "get_world_size", lambda: case["world_size"])

    return as_rank


def repeat_factors(recorded: dict, key: str) -> torch.Tensor:
    threshold, sqrt = key.split("/")
    records = [
        {"annotations": [{"category_id": c} for c in categories]} for categories in recorded["category_ids_per_image"]
    ]
    return RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
        records, float(threshold), sqrt=sqrt == "True"
    )


def test_training(recorded, pretend):
    for case in recorded["training"]:
        pretend(case)
        sampler = TrainingSampler(case["size"], shuffle=case["shuffle"], seed=case["seed"])
        assert list(itertools.islice(sampler, len(case["first"]))) == case["first"], case


def test_inference(recorded, pretend):
    for case in recorded["inference"]:
        pretend(case)
        sampler = InferenceSampler(case["size"])
        assert list(sampler) == case["indices"]
        assert len(sampler) == case["length"]


def test_repeat_factors(recorded):
    for key, expected in recorded["repeat_factors"].items():
        found = repeat_factors(recorded, key)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-5, atol=1e-5)


def test_repeat_factor_sampler(recorded, pretend):
    for case in recorded["repeat_factor_sampler"]:
        pretend(case)
        sampler = RepeatFactorTrainingSampler(repeat_factors(recorded, case["factors"]), seed=case["seed"])
        assert list(itertools.islice(sampler, len(case["first"]))) == case["first"]


def test_errors(recorded):
    calls = {
        "InferenceSampler size 0": lambda: InferenceSampler(0),
        "TrainingSampler size 0": lambda: TrainingSampler(0),
        "TrainingSampler size 2.5": lambda: TrainingSampler(2.5),
    }
    assert set(calls) == set(recorded["errors"])
    for name, call in calls.items():
        with pytest.raises(getattr(builtins, recorded["errors"][name][0])):
            call()
