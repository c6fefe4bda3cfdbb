"""What a report opens with."""

import pytest
from helpers.report_runs import absent, entry, finished
from scipy import stats

from loradet.evaluation.bootstrap import Interval
from loradet.experiments.pages.answer import answer_section
from loradet.experiments.results.seed_statistics import interval_of_mean, reach, summarize
from loradet.experiments.results.table import rows

SEEDS = (0, 1, 2)


def runs(root, aps: dict[str, tuple[float, ...]], **values):
    return [
        finished(root, entry(name, title=f"title of {name}", seeds=SEEDS), seed, ap, **values)
        for name, of_seeds in aps.items()
        for seed, ap in enumerate(of_seeds)
    ]


def answer(results, intervals=None):
    return answer_section(rows(results), intervals)


def test_what_is_ahead_and_what_is_not_distinguishable(tmp_path):
    aps = {"E1": (0.40, 0.41, 0.42), "E2": (0.50, 0.51, 0.53), "E3": (0.52, 0.47, 0.51), "E4": (0.3,)}
    # By hand: E2 - E1 is 0.10, 0.10, 0.11; E2 - E3 is -0.02, 0.04, 0.02.
    for other, ahead in (("E1", True), ("E3", False)):
        differences = [a - b for a, b in zip(aps["E2"], aps[other])]
        low, high = stats.t.interval(0.95, 2, sum(differences) / 3, stats.sem(differences))
        assert (low > 0) == ahead
        assert high > 0
    section = answer(runs(tmp_path, aps))
    assert section.paragraphs[0] == (
        "On val, E2 (title of E2) has the highest AP 0.513 (mean of 3 seeds), with 9.944 M trained parameters: it is "
        "ahead of E1; it is not distinguishable from E3 with 3 seeds; whether it is better than E4 the data do not say "
        "(fewer than two shared seeds say nothing of chance)."
    )
    assert "not corrected for the number of comparisons" in section.paragraphs[1]
    assert "Student's interval" in section.notes[0]
    assert "--bootstrap" in section.notes[0]  # E4 has one seed
    (plot,) = section.plots
    assert plot.name == "ap_parameters_val"
    assert plot.narrow.width < 420 < 700 < plot.width


def test_one_seed_each_supports_nothing(tmp_path):
    results = runs(tmp_path, {f"E{n}": (0.4 + n / 100,) for n in range(10)})
    section = answer(results)
    assert "E9 (title of E9) has the highest AP 0.490 (one seed)" in section.paragraphs[0]
    assert "better than E0, E1, E2, E3, E4 and 4 others the data do not say" in section.paragraphs[0]
    assert len(section.paragraphs) == 1
    bar = Interval(value=0.49, mean=0.49, low=0.45, high=0.52, share_not_above_zero=0.0, resamples=9)
    section = answer(results, {(results[9].folder, "val"): {"mAP": bar}})
    assert "by the bootstrap" in section.notes[0]


def test_where_there_is_little_or_nothing(tmp_path):
    missing = [absent(tmp_path, entry("E1")), absent(tmp_path, entry("E2"), state="broken")]
    assert answer(missing).paragraphs == ["No run has numbers yet: there is nothing to say."]
    alone = answer(runs(tmp_path, {"E3": (0.4, 0.5)}))
    assert alone.paragraphs == [
        "On val, E3 (title of E3) has AP 0.450 (mean of 2 seeds), with 9.944 M trained parameters; no other experiment "
        "has numbers to hold it against."
    ]
    short = answer(runs(tmp_path, {"E4": (0.1,), "E5": (0.2,)}, mode="smoke", synthetic=True))
    assert short.paragraphs[0].startswith("In the smoke runs (synthetic images), E5")
    assert short.paragraphs[0].endswith("Smoke runs say nothing of the methods.")


def test_the_interval_of_a_mean():
    values = (0.539, 0.491, 0.513, 0.52)
    low, high = interval_of_mean(summarize(values))
    assert (low, high) == pytest.approx(stats.t.interval(0.95, 3, sum(values) / 4, stats.sem(values)))
    assert interval_of_mean(summarize([0.5])) is None
    assert reach(3) == pytest.approx(2.484, abs=1e-3)
