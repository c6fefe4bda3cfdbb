"""What a run is, by its hash: the same from what is known of configs as from its config itself."""

from helpers.engine_study import SHORT, entry, study

from loradet.experiments.running.planning import plan
from loradet.experiments.study.config_memo import ConfigMemo
from loradet.training.folder.record import config_hash


def test_every_seed_has_the_hash_of_its_own_config(tmp_path):
    data = "data.root=scenes"
    of = study(entry(seeds=(0, 3), overrides=(data, *SHORT)), entry("b", overrides=(data,)))
    memo = ConfigMemo(tmp_path)
    runs = plan(of, root=tmp_path, memo=memo)
    found = [run.identity for run in runs]
    assert [run.identity for run in plan(of, root=tmp_path, memo=memo)] == found
    assert found == [config_hash(run.config) for run in runs] and len(set(found)) == 3
