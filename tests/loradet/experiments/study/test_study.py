"""What an entry may not be: one clear error each, which names it."""

from dataclasses import replace

import pytest

from loradet.experiments.study.definition import Entry, Study

CONFIG = "configs/quickstart.py"


def entry(id="a", **values):
    return Entry(**{"id": id, "title": "T", "objective": "try", "config": CONFIG, **values})


def study(*entries):
    return Study(name="s", title="T", entries=entries)


def test_a_good_study_gives_its_entries_by_id():
    pictures = entry("p", kind="pictures", config="", sources=("a", "b"))
    whole = study(entry(), entry("b", baselines=("a",)), pictures)
    assert whole.entry("p") is pictures
    with pytest.raises(ValueError, match=r"Study s has no entry c; it has: a, b, p\."):
        whole.entry("c")


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        ({"config": "configs/none.py"}, FileNotFoundError, ["configs/none.py", "does not exist"]),
        ({"config": ""}, FileNotFoundError, ["config (none)"]),
        ({"baselines": ("a", "z")}, ValueError, ["baselines", "z"]),
        ({"kind": "pictures", "sources": ("z",)}, ValueError, ["sources", "z"]),
        ({"kind": "pictures"}, ValueError, ["sources"]),
        ({"kind": "picture"}, ValueError, ["kind='picture'", "training, pictures"]),
        ({"checks": {"metric_at_most": {}}}, ValueError, ["'metric_at_most'", "metric_at_least", "trainable"]),
        ({"checks": {"metric_at_least": {"coco/bbox_mAP": 0.1}}}, ValueError, ["'coco/bbox_mAP'", "val, smoke"]),
        ({"seeds": ()}, ValueError, ["seeds=[]"]),
        ({"seeds": (0, 0)}, ValueError, ["seeds=[0, 0]", "once"]),
        ({"seeds": (-1,)}, ValueError, ["seeds=[-1]", "from 0"]),
        ({"seeds": ("0",)}, ValueError, ["seeds=['0']"]),
        ({"overrides": ("train.seed=3",)}, ValueError, ["train.seed=3", "no effect", "`seeds`"]),
        ({"overrides": ("train.output_dir=x",)}, ValueError, ["train.output_dir=x", "no effect"]),
    ],
)
def test_a_mistake_names_the_entry(values, error, words):
    with pytest.raises(error) as caught:
        study(entry(), entry("b", **values))
    assert str(caught.value).startswith("Study s, entry b:")
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize("name", ["", "a/b", "../a", "a b", "-a", ".a"])
def test_an_id_is_a_folder_name(name):
    with pytest.raises(ValueError, match="it names folders"):
        study(entry(name))


def test_ids_are_unique():
    with pytest.raises(ValueError, match="the id b is given to more than one entry"):
        study(entry(), entry("b"), replace(entry("b"), title="Another"))
