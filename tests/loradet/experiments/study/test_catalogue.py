"""Studies as files: study.py and study.yaml."""

import textwrap

import pytest

from loradet.experiments.study.catalogue import find_studies, load_study
from loradet.experiments.study.definition import Reported, Scenes, Smoke

ENTRY = "{id: a, title: A, objective: try, config: configs/quickstart.py"
PLAIN = """
name: plain
title: A plain study
source: a paper
smoke: {train_images: 8, val_images: 4, epochs: 2, overrides: []}
scenes: {root: somewhere, size: 64, counts: {train: 12, val: 6}}
stand_in:
entries:
  - id: probe
    config: configs/quickstart.py
    title: Probe
    objective: The control.
    seeds: [0, 1]
    splits: [val, test]
    reported: [{split: val, seed: 1, metrics: {coco/bbox_mAP: 0.5}}]
  - grid:
      axes: {rank: [2, 4, 8]}
      exclude: [{rank: 4}]
      template: {id: "r{rank}", config: configs/quickstart.py, title: LoRA, objective: try, rank: "{rank}",
                 baselines: [probe], overrides: ["model.backbone.bottom_up.rank={rank}"]}
  - {id: pictures, kind: pictures, title: Pictures, objective: See., sources: [r8]}
"""
IN_PYTHON = """
from loradet.experiments.study.definition import Entry, Study

same = dict(objective="try", config="configs/quickstart.py")
study = Study(name="python", title="T", entries=(Entry(id="a", title="A", **same), Entry(id="b", title="B", **same)))
"""


def write(folder, text, name="study.yaml"):
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    file.write_text(textwrap.dedent(text))
    return file


def test_yaml_holds_all_that_a_study_has(tmp_path):
    study = load_study(write(tmp_path, PLAIN))
    assert [entry.id for entry in study.entries] == ["probe", "r2", "r8", "pictures"]
    assert (study.name, study.source, study.path) == ("plain", "a paper", str(tmp_path))
    assert study.smoke == Smoke(train_images=8, val_images=4, epochs=2, overrides=[])
    assert study.scenes == Scenes(root="somewhere", size=64, counts={"train": 12, "val": 6})
    probe = study.entry("probe")
    assert (probe.seeds, probe.splits) == ((0, 1), ("val", "test"))
    assert probe.reported == (Reported(split="val", seed=1, metrics={"coco/bbox_mAP": 0.5}),)
    assert study.entry("r8").rank == 8
    assert study.entry("pictures").sources == ("r8",)


def test_a_study_is_found_by_file_folder_or_name(tmp_path, monkeypatch):
    study = load_study(write(tmp_path, IN_PYTHON, "study.py"))
    assert [entry.id for entry in study.entries] == ["a", "b"]
    assert load_study(tmp_path) == study
    assert load_study("sar_lora_dino") == load_study("configs/sar_lora_dino/study.py")
    assert load_study("sar_lora_dino/mini").path == "sar_lora_dino/mini"
    write(tmp_path / "configs" / "mine", "", "study.py")
    monkeypatch.chdir(tmp_path)
    assert [str(path) for path in find_studies()] == ["configs/mine/study.py"]
    with pytest.raises(FileNotFoundError, match=r"No study at yours; there are: configs/mine\."):
        load_study("yours")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("entries: [", ["not YAML"]),
        ("[1, 2]", ["expected name, title and a list of entries"]),
        ("name: n\ntitle: t\nentries: {id: a}", ["a list of entries"]),
        ("name: n\ntitle: t\nentries: [a]", ["an entry is 'a'"]),
        ("name: n\nentries: [" + ENTRY + "}]", ["title"]),
        ("name: n\ntitle: t\nentires: 3\nentries: [" + ENTRY + "}]", ["entires"]),
        ("name: n\ntitle: t\nsmoke: {images: 3}\nentries: [" + ENTRY + "}]", ["smoke: ", "images"]),
        ("name: n\ntitle: t\nsmoke: 3\nentries: [" + ENTRY + "}]", ["smoke: "]),
        ("name: n\ntitle: t\nentries: [" + ENTRY + ", sedes: [0]}]", ["Entry a: ", "sedes"]),
        ("name: n\ntitle: t\nentries: [" + ENTRY + ", seeds: 0}]", ["Entry a: ", "seeds=0", "a list"]),
        ("name: n\ntitle: t\nentries: [" + ENTRY + ", baselines: a}]", ["Entry a: ", "baselines='a'", "a list"]),
        ("name: n\ntitle: t\nentries: [{grid: {axis: {}}}]", ["grid: ", "axis", "expected axes"]),
        ("name: n\ntitle: t\nentries: [" + ENTRY + "}, " + ENTRY + "}]", ["Study n", "id a"]),
    ],
)
def test_a_broken_file_is_one_clear_error(tmp_path, text, words):
    with pytest.raises(ValueError) as caught:
        load_study(write(tmp_path, text))
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1", ["defines no `study`"]),
        ("study = 1", ["defines no `study`"]),
        ("x = 1\nstudy = Study()", ["study.py, line 2: NameError", "Study"]),
        ("study = (", ["study.py", "SyntaxError"]),
        (IN_PYTHON.replace("objective=", "objectives="), ["study.py, line 5: TypeError", "objectives"]),
        (IN_PYTHON.replace('id="b"', 'id="a"'), ["Study python", "id a", "more than one entry"]),
    ],
)
def test_a_broken_python_file_is_one_clear_error(tmp_path, text, words):
    with pytest.raises(ValueError) as caught:
        load_study(write(tmp_path, text, "study.py"))
    assert all(word in str(caught.value) for word in words), caught.value


def test_no_two_experiments_of_the_project_share_a_folder():
    ids = [entry.id for file in find_studies() for entry in load_study(file).entries]
    assert len(ids) == len(set(ids))
