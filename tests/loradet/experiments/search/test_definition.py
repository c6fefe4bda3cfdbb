"""A search file: what it says, and one line for what is wrong with it."""

from pathlib import Path

import pytest
from helpers.search_trial import ALPHA, LR, RANK, SPACE, write_search

from loradet.errors import MissingFileError, UserError
from loradet.experiments.search.definition import load_search


def test_a_point_becomes_overrides_and_a_key_follows_another(tmp_path):
    search = load_search(write_search(tmp_path))
    assert search.space.words({LR: 3e-4, RANK: 8}) == [f"{LR}=0.0003", f"{RANK}=8", f"{ALPHA}=16"]
    assert search.space.described()[LR] == "loguniform [1e-05, 0.01]"  # which YAML reads as a text


def test_choices_are_the_texts_behind_an_override(tmp_path):
    space = {
        "model.backbone.bottom_up.targets": {"choice": [["mlp.fc1"], ["mlp.fc1", "mlp.fc2"]]},
        "train.amp.enabled": {"choice": [True, False]},
        "train.clip_grad.max_norm": {"choice": [None, 0.5]},
    }
    values = [one.values for one in load_search(write_search(tmp_path, space=space)).space.dimensions]
    assert values == [("[mlp.fc1]", "[mlp.fc1,mlp.fc2]"), ("true", "false"), ("null", 0.5)]


def test_the_projects_own_search_loads_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_search(Path("configs/search_quickstart.yaml")).trials == 12


def test_a_folder_stands_for_its_file(tmp_path):
    assert load_search(write_search(tmp_path).parent).name == "tiny"


WRONG = {
    "unknown key": ({"optimizer.lrr": {"uniform": [0, 1]}}, "has no key 'optimizer.lrr'. Nearest: optimizer.lr"),
    "unknown distribution": ({LR: {"lognormal": [1e-5, 1]}}, f"{LR}: there is no 'lognormal'; expected one of uniform"),
    "low above high": ({LR: {"loguniform": [1e-2, 1e-5]}}, f"{LR}: loguniform: low 0.01 is not below high 1e-05"),
    "logarithm of zero": ({LR: {"loguniform": [0, 1]}}, "a logarithmic range begins above 0"),
    "one bound": ({LR: {"uniform": [1]}}, "uniform: [1]; expected [low, high], numbers"),
    "no number": ({LR: {"uniform": ["a", 1]}}, "expected [low, high], numbers"),
    "half a rank": ({RANK: {"int": [1.5, 4]}}, "expected whole numbers"),
    "step": ({RANK: {"int": [2, 7, 2]}}, "step 2 does not lead from 2 to 7"),
    "no choice": ({RANK: {"choice": []}}, "choice: []; expected a list of values"),
    "choice twice": ({RANK: {"choice": [2, 2]}}, "choice: 2 is there twice"),
    "wrong kind of value": ({RANK: {"choice": [2, "many"]}}, f"{RANK}='many': expected a whole number"),
    "follows nothing": ({LR: {"uniform": [0, 1]}, ALPHA: {"times": [RANK, 2]}}, f"times {RANK}, which is no key"),
    "nothing varies": ({ALPHA: {"times": [LR, 2]}}, "which is no key with numbers of this space; there are: none"),
    "not a mapping": ([LR], "expected keys of the config"),
    "two kinds": ({LR: {"uniform": [0, 1], "choice": [1]}}, "expected one of uniform: [low, high]"),
    "the seed": ({"train.seed": {"int": [0, 9]}}, "train.seed is the same in all trials"),
    "what decides": ({"train.best.metric": {"choice": ["bbox/AP", "bbox/AP50"]}}, "train.best.metric is the same in"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_with_a_space_is_one_line(tmp_path, case):
    space, expected = WRONG[case]
    with pytest.raises(UserError) as error:
        load_search(write_search(tmp_path, space=space))
    message = str(error.value)
    assert expected in message
    assert "search.yaml" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"trails": 3}, "there is no 'trails'; expected name, config, space"),
        ({"trials": 0}, "trials=0; expected a whole number from 1 on"),
        ({"name": "a/b"}, "name='a/b'; expected letters"),
        ({"sampler": "grid"}, "sampler='grid'; expected one of tpe, random"),
        ({"prune": {"percentile": 120}}, "percentile=120; expected a number from 0 to 100"),
        ({"prune": {"patience": 1}}, "prune: there is no 'patience'"),
        ({"scenes": {"size": 64}}, "scenes: missing 2 required keyword-only arguments"),
        ({"overrides": [f"{LR}=1"]}, f"{LR} is in overrides too"),
        ({"overrides": ["train.eval_period=0"]}, "train.eval_period=0; set it in overrides, or write prune: false"),
        ({"overrides": ["train.nothing=0"]}, "has no key 'train.nothing'"),
        ({"splits": ["val", "later"]}, "no dataloader.later"),
        ({"splits": []}, "splits is empty"),
        ({"space": None}, "expected name, config and space"),
    ],
)
def test_what_is_wrong_with_a_search_is_one_line(tmp_path, values, expected):
    with pytest.raises(UserError) as error:
        load_search(write_search(tmp_path, **values))
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(MissingFileError, match="No search at"):
        load_search(tmp_path)
    with pytest.raises(MissingFileError, match=r"configs/none\.py does not exist"):
        load_search(write_search(tmp_path, config="configs/none.py"))


def test_a_file_that_is_no_yaml(tmp_path):
    file = tmp_path / "search.yaml"
    file.write_text("name: [")
    with pytest.raises(UserError, match=r"search\.yaml is not YAML"):
        load_search(file)


def test_what_is_left_out_has_its_default(tmp_path):
    search = load_search(write_search(tmp_path, prune=False, space={LR: SPACE[LR]}))
    assert (search.prune, search.sampler, search.splits, search.seed) == (None, "tpe", ("val",), 0)
