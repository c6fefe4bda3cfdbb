"""Configs of runs are the values that YAML gives, whether or not those of another seed were read before."""

import pytest
import yaml

from loradet.experiments.results.config_text import parse_config

TEXTS = [
    "train: {seed: 3}\na: [1, x_full_seed3]\n",
    "seed: 3\ntrain:\n  seed: 3\n  output_dir: work_dirs/x_full_seed3\nx_full_seed3: x_full_seed3\n",
    "train:\n  seed: 010\n  data_seed: 3\nnote: |\n  seed: 3\n  and more\n",
    "note: >\n  a text\n  seed: 3\ntrain:\n  seed: 3\n",
    "a: '@x_full_seed3'\nb: 'seed: 3'\nc: x_full_seed3_seed\n",
    "train:\n  seed: 18446744073709551616\nb: null\n",
]


@pytest.mark.parametrize("folder", ["x_full_seed3", "3", "mine"])
@pytest.mark.parametrize("text", TEXTS)
def test_as_yaml_has_it(tmp_path, folder, text):
    for seed in (3, 4, 12):
        file = tmp_path / f"{folder[:-1]}{seed}" / "config.yaml"
        file.parent.mkdir()
        file.write_text(text.replace(": 3\n", f": {seed}\n").replace("x_full_seed3", file.parent.name))
        found = file.stat()
        expected = yaml.safe_load(file.read_text())
        assert parse_config(file, found.st_size, found.st_mtime_ns) == expected


def test_what_is_no_yaml_is_an_error(tmp_path):
    (tmp_path / "x_full").mkdir()
    file = tmp_path / "x_full" / "config.yaml"
    file.write_text("train:\n  seed: 1\n  a: [\n")
    with pytest.raises(yaml.YAMLError):
        parse_config(file, 1, 1)
