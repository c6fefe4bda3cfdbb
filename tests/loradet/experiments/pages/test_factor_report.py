"""The report of a study of factors: comparison, pages, effects, and a next run that loads."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from detectron2.config import LazyConfig
from helpers.factor_trial import EPOCHS, RISING, diverged, factorial, ofat, trained, write_log
from helpers.report_runs import absent
from omegaconf import OmegaConf

from loradet.config import load_config
from loradet.experiments.factors.design import design
from loradet.experiments.factors.next_run import CombinationError, next_run
from loradet.experiments.pages import factor_report as factor_report_module
from loradet.experiments.pages.factor_report import factor_report
from loradet.experiments.pages.figures import drawing_style
from loradet.experiments.pages.report import write_report
from loradet.experiments.study.catalogue import load_study
from loradet.training.folder.metrics_log import read_lines

FAST = tuple(0.52 * (1 - 0.3**epoch) for epoch in range(1, EPOCHS + 1))
ROUGH = tuple(0.48 + (0.02 if epoch % 2 else -0.02) * (epoch > 2) for epoch in range(EPOCHS))
OVERFITTED = (0.2, 0.4, 0.5, 0.5, 0.49, 0.47, 0.45, 0.44, 0.43, 0.42, 0.41, 0.40)


def sections(study, results):
    with drawing_style():
        return {section.title: section for section in factor_report(study, results).sections}


def rows(section, table=0):
    found = section.tables[table]
    return [dict(zip(found.headers, row, strict=True)) for row in found.rows]


@pytest.fixture(scope="module")
def one_at_a_time(tmp_path_factory):
    """Three seeds; the higher rate is fast, rough and diverges once, the lower one better; batch 16 overfits."""
    root = tmp_path_factory.mktemp("runs")
    study = ofat(seeds=(0, 1, 2))
    by = {entry.id: entry for entry in study.entries}

    def shifted(values, seed):
        return [value + 0.001 * seed for value in values]

    results = [trained(root, by["base"], seed, shifted(RISING, seed), test=max(RISING) - 0.01) for seed in range(3)]
    results += [trained(root, by["lr0.01"], seed, shifted(ROUGH, seed), test=0.40) for seed in (0, 1)]
    results += [diverged(root, by["lr0.01"], 2, iteration=23)]
    results += [trained(root, by["lr0.005"], seed, shifted(FAST, seed), test=max(FAST) - 0.01) for seed in range(3)]
    cost = dict(peak_memory_mb=4096.0, train_seconds=7200.0, test=0.49)
    results += [trained(root, by["bs16"], seed, shifted(OVERFITTED, seed), **cost) for seed in (0, 1)]
    results += [absent(root, by["bs16"], 2)]
    return study, results


def test_the_comparison_fills_itself_and_drops_no_run(one_at_a_time):
    table = {row["experiment"]: row for row in rows(sections(*one_at_a_time)["Comparison"])}
    best = max(RISING) + 0.001
    assert list(table) == [f"Experiment {name}" for name in ("base", "lr0.01", "lr0.005", "bs16")]
    assert table["Experiment base"] == {
        "experiment": "Experiment base",
        "mAP@0.5": f"{best:.3f} ± 0.001 (3)",
        "mAP@0.5:0.95": f"{0.6 * best:.3f} ± 0.001 (3)",
        "training time": "5.0 min",
        "best epoch": "12.0 ± 0.0 (3)",
        "peak memory (MiB)": "2048 ± 0 (3)",
        "notes": "–",
    }
    assert table["Experiment bs16"]["training time"] == "2.0 h"
    assert table["Experiment lr0.01"]["mAP@0.5"].endswith("(2)")
    assert table["Experiment lr0.01"]["notes"] == (
        "seed 2: diverged at iteration 23; best before that 0.435 at epoch 4"
    )
    assert table["Experiment bs16"]["notes"] == "seeds 0, 1: overfits from epoch 3 on; seed 2: missing"


def test_an_experiment_all_of_whose_runs_diverged_has_its_note_and_no_number(tmp_path):
    study = ofat()
    base, high, *_ = study.entries
    found = sections(study, [trained(tmp_path, base), diverged(tmp_path, high, iteration=7)])
    row = rows(found["Comparison"])[1]
    assert (row["mAP@0.5"], row["best epoch"]) == ("–", "–")
    assert row["notes"].startswith("diverged at iteration 7")
    page = found["Factor: lr"]
    assert any(text.startswith("lr=0.01: no run has finished (diverged at iteration 7") for text in page.paragraphs)
    assert rows(page)[2]["finished"] == "0 of 1; 1 diverged"


def test_an_experiment_that_learns_nothing_is_not_called_quick(tmp_path):
    study = ofat()
    base, high, *_ = study.entries
    found = sections(study, [trained(tmp_path, base), trained(tmp_path, high, values=[0.0] * EPOCHS)])
    row = rows(found["Comparison"])[1]
    assert (row["best epoch"], row["notes"]) == ("–", "learns nothing: AP below 0.005 at every evaluation")
    assert not any("sooner" in text for text in found["Factor: lr"].paragraphs)


def test_a_page_says_what_its_table_shows(one_at_a_time):
    page = sections(*one_at_a_time)["Factor: lr"]
    table = rows(page)
    assert [row["lr"] for row in table] == ["0.001 (baseline)", "0.005", "0.01"]
    assert [row["finished"] for row in table] == ["3 of 3", "3 of 3", "2 of 3; 1 diverged"]
    assert [row["converged at epoch"][:3] for row in table] == ["5.0", "2.0", "1.0"]
    assert [row["AP50 val − test"][:5] for row in table] == ["0.011", "0.011", "0.100"]
    _, base, middle, high, best = page.paragraphs
    assert base == f"lr=0.001 (baseline): AP50 {max(RISING) + 0.001:.3f} ± 0.001 (3); converges at epoch 5."
    difference = max(FAST) - max(RISING)
    assert middle.startswith(
        f"lr=0.005: AP50 is {difference:.3f} above that of lr=0.001 (seeds 0, 1, 2: 95 % interval "
        f"{difference:+.3f} to {difference:+.3f}); converges 2.5 times sooner (epoch 2 against epoch 5)"
    )
    assert "oscillates more (0.0" in high
    assert "its gap from val to test is larger (+0.100 against +0.011)" in high
    assert high.endswith("1 of 3 runs diverged.")
    assert best == (
        "Best by mean AP50: lr=0.005 (by its 95 % interval, which is not corrected for the number of levels, 3)."
    )
    assert [plot.name for plot in page.plots] == ["factor_lr"]
    assert "with a cross those that diverged" in page.plots[0].caption


def test_losses_that_are_orders_apart_share_a_logarithmic_axis(tmp_path):
    study = ofat()
    base, high, *_ = study.entries
    exploding = [2.0, *[1e6 / 4**epoch for epoch in range(EPOCHS - 1)]]
    page = sections(study, [trained(tmp_path, base), trained(tmp_path, high, losses=exploding)])["Factor: lr"]
    drawn = page.plots[0].svg.decode()
    assert "<!-- 10000 -->" in drawn and "mathdefault" not in drawn


def test_costs_and_overfitting_are_said_too(one_at_a_time):
    _, _, text, best = sections(*one_at_a_time)["Factor: batch"].paragraphs
    assert "takes more memory (4096 MiB against 2048 MiB); trains 24.0 times as long (7200 s against 300 s)" in text
    assert "overfits from epoch 3 on" in text
    # The seed that is missing at batch=16 is in no pair.
    assert text.startswith(
        "batch=16: AP50 is 0.001 above that of batch=8 (seeds 0, 1: 95 % interval +0.001 to +0.001);"
    )
    assert best == "Best by mean AP50: batch=16."


def test_what_an_unfinished_run_cost_is_not_counted(tmp_path):
    study = ofat(seeds=(0, 1))
    base, *_ = study.entries
    begun = replace(trained(tmp_path, base, 1, peak_memory_mb=1.0), state="interrupted", metrics={})
    row = rows(sections(study, [trained(tmp_path, base), begun])["Factor: lr"])[0]
    assert (row["finished"], row["peak memory (MiB)"], row["best epoch"]) == ("1 of 2", "2048 (1)", "12.0 (1)")


def test_a_metric_that_is_no_number_is_none(tmp_path):
    study = factorial(seeds=(0, 1))
    results = [trained(tmp_path, e, seed, values=[0.4 + 0.01 * seed] * 3) for e in study.entries for seed in e.seeds]
    results[0] = replace(results[0], metrics={"val": {"coco/bbox_mAP_50": float("nan"), "coco/bbox_mAP": 0.2}})
    found = sections(study, results)
    assert rows(found["Comparison"])[0]["mAP@0.5"] == "0.410 (1)"
    page = found["Main effects and interactions"]
    assert page.paragraphs[2] == "Runs without numbers, and so left out: 1."
    assert not any("nan" in cell for table in page.tables for row in table.rows for cell in row)


def test_one_seed_is_no_proof(tmp_path):
    study = ofat()
    results = [trained(tmp_path, e, values=FAST if e.id == "lr0.005" else RISING) for e in study.entries]
    page = sections(study, results)["Factor: lr"].paragraphs
    assert "(seed 0 alone, so that chance is not told from effect)" in page[2]
    assert page[-1] == "Best by mean AP50: lr=0.005; these runs do not tell it from the baseline's level."


def test_of_equal_levels_the_baseline_s_is_the_best(tmp_path):
    """Though lr=0.1, the baseline's, is the last level of the factor."""
    study = ofat()
    base, *others = (
        replace(e, factors={**e.factors, "lr": {0.001: 0.1}.get(e.factors["lr"], e.factors["lr"])})
        for e in study.entries
    )
    study = replace(study, entries=(base, *others))
    found = sections(study, [trained(tmp_path, e) for e in study.entries])
    assert found["Factor: lr"].paragraphs[-1] == "Best by mean AP50: lr=0.1, the baseline's."
    assert found["Next run"].paragraphs[0].endswith("lr=0.1, batch=8.")
    study = factorial()
    first, *others, last = study.entries
    others = [replace(e, baselines=(last.id,)) for e in (first, *others)]
    study = replace(study, entries=(last, *others))
    found = sections(study, [trained(tmp_path, e, values=[0.4] * 3) for e in study.entries])
    assert found["Factor: lr"].paragraphs[-1] == "Best by mean AP50: lr=0.01, the baseline's."
    assert found["Next run"].paragraphs[0].endswith("lr=0.01, batch=16.")


def test_a_factor_of_one_finished_level_is_not_compared(tmp_path):
    study = ofat()
    trials = [trained(tmp_path, e) if e.id != "bs16" else absent(tmp_path, e, 0) for e in study.entries]
    found = sections(study, trials)
    assert found["Factor: batch"].paragraphs[-1] == "Only batch=8 has finished runs: its levels are not compared yet."
    assert found["Next run"].paragraphs[1] == "Not compared yet, for want of finished runs at two levels: batch."


def of_class(run, logged, name):
    """A run that was chosen by the AP of a class, which its metrics file may have."""
    lines = [line | {"bbox/AP-head": line["bbox/AP"]} for line in read_lines(run.folder / "metrics.json")]
    write_log(run.folder, lines)
    metrics = {split: {**values, name: values["coco/bbox_mAP"]} for split, values in run.metrics.items()}
    return replace(run, metrics=metrics, record=run.record | {"best": {"metric": logged}})


def test_runs_may_be_compared_by_the_ap_of_a_class(tmp_path):
    study = ofat()
    results = [of_class(trained(tmp_path, e), "bbox/AP-head", "coco/bbox_mAP/head") for e in study.entries]
    page = sections(study, results)["Factor: lr"]
    assert page.paragraphs[1].startswith(f"lr=0.001 (baseline): AP-head {0.6 * max(RISING):.3f}")
    assert rows(page)[0]["converged at epoch"].startswith("5.0")


@pytest.mark.parametrize(("known", "words"), [(0, "none of the 4 runs has a"), (2, "2 of the 4 runs have a")])
def test_a_factorial_whose_own_metric_is_nan_says_so(tmp_path, known, words):
    """A class without boxes, say; AP50 and AP are analysed all the same."""
    study = factorial()
    results = [of_class(trained(tmp_path, e), "bbox/AP-head", "coco/bbox_mAP/head") for e in study.entries]
    for run in results[known:]:
        for metrics in run.metrics.values():
            metrics["coco/bbox_mAP/head"] = float("nan")
    page = sections(study, results)["Main effects and interactions"]
    assert page.paragraphs[0].startswith(
        f"There is no analysis of AP-head, by which the runs chose their weights: {words}"
    )
    assert page.paragraphs[0].endswith("The effects here are those on AP50.")
    assert {row["metric"] for row in rows(page)} == {"AP50", "AP"}
    assert "effect on AP50" in page.tables[1].headers


def test_each_metric_of_a_factorial_is_analysed_once(tmp_path, monkeypatch):
    seen = []
    analyse = factor_report_module.analyse
    monkeypatch.setattr(factor_report_module, "analyse", lambda *args: seen.append(args) or analyse(*args))
    study = factorial()
    sections(study, [trained(tmp_path, e) for e in study.entries])
    assert len(seen) == 2  # AP50, which is the primary one, and AP


def test_a_metric_that_no_run_has_is_an_error(tmp_path):
    study = ofat()
    results = [of_class(trained(tmp_path, e), "bbox/AP-tail", "coco/bbox_mAP/head") for e in study.entries]
    with pytest.raises(ValueError, match=r"best.metric='bbox/AP-tail'.*'coco/bbox_mAP/tail'.*There: .*mAP/head"):
        sections(study, results)
    # One that has diverged has no metrics file; nor is it finished.
    unfinished = [diverged(tmp_path, e) for e in study.entries]
    assert rows(sections(study, unfinished)["Comparison"])[0]["mAP@0.5"] == "–"


def test_the_next_run_combines_the_best_levels(one_at_a_time, tmp_path):
    study, results = one_at_a_time
    better = [
        replace(r, metrics={"val": {"coco/bbox_mAP_50": 0.6}}) if r.entry.id == "bs16" and r.metrics else r
        for r in results
    ]
    found = factor_report_of(study, better)
    (tmp_path / "next_run.py").write_text(found.files["next_run.py"])
    cfg = load_config(str(tmp_path / "next_run.py"), [])
    assert (cfg.optimizer.lr, cfg.dataloader.train.total_batch_size) == (0.005, 16)
    assert cfg.train.output_dir == "work_dirs/trial_ofat_next"
    base = load_config(study.entries[0].config, ["optimizer.lr=0.005", "dataloader.train.total_batch_size=16"])
    base.train.output_dir = cfg.train.output_dir
    assert OmegaConf.to_container(cfg, resolve=True) == OmegaConf.to_container(base, resolve=True)
    texts = found.sections[-1].paragraphs
    assert texts[0] == "The best level of each factor, by mean AP50: lr=0.005, batch=16."
    assert texts[-1].startswith("Not run yet. Its config is next_run.py")


def factor_report_of(study, results):
    with drawing_style():
        return factor_report(study, results)


def test_a_combination_that_was_run_is_called_so(tmp_path):
    study = ofat()
    found = factor_report_of(
        study, [trained(tmp_path, e, values=FAST if e.id == "bs16" else RISING) for e in study.entries]
    )
    text = found.sections[-1].paragraphs[-1]
    assert text.startswith("Run already, as bs16; more seeds say more:")
    assert "run bs16 --seeds 1 " in text
    (tmp_path / "next_run.py").write_text(found.files["next_run.py"])
    assert LazyConfig.load(str(tmp_path / "next_run.py")).dataloader.train.total_batch_size == 16


@pytest.mark.slow
def test_the_study_s_own_levels_combine_across_optimizers(tmp_path):
    """SGD has other keys than AdamW; what lr, batch and epochs change is set on top of it, once each."""
    plan = design(load_study("vim_ofat"))
    assert plan.baseline.id == "ofat_baseline_lr0.001_bs8_adamw_ep100"
    assert not plan.is_factorial
    levels = {"lr": 0.005, "batch": 16, "optimizer": "SGD", "epochs": 150}
    run = next_run(plan, levels, "work_dirs/next")
    assert run.existing is None
    (tmp_path / "next_run.py").write_text(run.text)
    cfg = load_config(str(tmp_path / "next_run.py"), [])
    optimizer = OmegaConf.to_container(cfg.optimizer)
    assert optimizer["_target_"] is load_config("configs/vim_ofat/ofat_lr0.001_bs8_sgd_ep100.py", []).optimizer._target_
    assert (optimizer["lr"], optimizer["momentum"], optimizer["weight_decay"]) == (0.005, 0.9, 1e-4)
    assert "betas" not in optimizer
    assert cfg.dataloader.train.total_batch_size == 16
    assert cfg.train.max_iter == cfg.lr_multiplier.max_iter == "150 epochs"
    assert run.text.count("150 epochs") == 1


@pytest.mark.slow
def test_levels_whose_configs_disagree_are_not_combined(tmp_path):
    study = ofat()
    clash = replace(study.entry("bs16"), overrides=("dataloader.train.total_batch_size=16", "optimizer.lr=0.002"))
    study = replace(study, entries=(*study.entries[:-1], clash))
    with pytest.raises(CombinationError, match=r"lr0.005 and bs16 both change optimizer.lr \(0.005; 0.002\)"):
        next_run(design(study), {"lr": 0.005, "batch": 16}, "out")
    results = [trained(tmp_path, e, values=FAST if e.id in ("lr0.005", "bs16") else RISING) for e in study.entries]
    found = factor_report_of(study, results)
    assert "next_run.py" not in found.files
    assert "both change optimizer.lr" in found.sections[-1].paragraphs[-1]


def with_config_of(study, name, folder, *lines):
    """The study, an entry of which has a config of its own: the tiny one and some lines."""
    old = study.entry(name)
    load = f"cfg = load_config({old.config!r}, {list(old.overrides)!r})"
    names = [f"{key} = cfg.{key}" for key in load_config(old.config, [])]
    imports = ["import functools", "import math", "from loradet.config import load_config"]
    path = folder / f"{name}_config.py"
    path.write_text("\n".join([*imports, load, *names, "del cfg", *lines]) + "\n")
    new = replace(old, config=str(path), overrides=())
    return replace(study, entries=tuple(new if entry.id == name else entry for entry in study.entries))


def with_larger_change(study, name, folder):
    """That a next run begins from this entry, and writes what the other ones change."""
    return with_config_of(study, name, folder, *(f"added_{number} = {{'value': {number}}}" for number in range(9)))


def test_values_that_are_not_finite_are_written_as_python(tmp_path):
    lines = ["train.clip_grad.max_norm = math.inf", "extra = {'values': [-math.inf, math.nan]}"]
    study = with_config_of(ofat(), "bs16", tmp_path, *lines)
    run = next_run(design(with_larger_change(study, "lr0.005", tmp_path)), {"lr": 0.005, "batch": 16}, "out")
    assert "train.clip_grad.max_norm = float('inf')" in run.text
    (tmp_path / "next_run.py").write_text(run.text)
    cfg = LazyConfig.load(str(tmp_path / "next_run.py"))
    assert cfg.train.clip_grad.max_norm == math.inf
    low, unknown = cfg.extra["values"]
    assert low == -math.inf and math.isnan(unknown)


@pytest.mark.slow
@pytest.mark.parametrize("value", ["functools.partial(max, 1)", "lambda x: x", "math.inf.hex"])
def test_a_value_that_no_config_can_import_is_not_combined(tmp_path, value):
    study = with_config_of(ofat(), "bs16", tmp_path, f"extra = {{'call': [max, {value}]}}")
    study = with_larger_change(study, "lr0.005", tmp_path)
    with pytest.raises(CombinationError, match=r"extra.call\[1\] is .*no name that a config could import"):
        next_run(design(study), {"lr": 0.005, "batch": 16}, "out")
    results = [trained(tmp_path, e, values=FAST if e.id in ("lr0.005", "bs16") else RISING) for e in study.entries]
    found = factor_report_of(study, results)
    assert "next_run.py" not in found.files
    assert "no name that a config could import" in found.sections[-1].paragraphs[-1]


def test_a_factorial_has_effects_and_interactions(tmp_path):
    """Alone each of them gains 0.02, together they lose 0.06."""
    study = factorial(seeds=(0, 1))
    value = {(0.001, 8): 0.40, (0.01, 8): 0.42, (0.001, 16): 0.42, (0.01, 16): 0.36}
    results = [
        trained(tmp_path, e, seed, [value[tuple(e.factors.values())] + 0.002 * seed] * 5)
        for e in study.entries
        for seed in e.seeds
    ]
    found = sections(study, results)
    assert list(found) == ["Comparison", "Factor: lr", "Factor: batch", "Main effects and interactions", "Next run"]
    page = found["Main effects and interactions"]
    terms = {(row["metric"], row["term"]): row for row in rows(page)}
    assert list(dict.fromkeys(metric for metric, _ in terms)) == ["AP50", "AP"]
    # Effects are -0.01 each and 0.02 of the pair, eight runs: 8 · 0.01² and 8 · 0.02², and 4 · 0.002² / 2 of the seeds.
    squares = {"lr": 8e-4, "batch": 8e-4, "lr × batch": 32e-4, "within cells (seeds)": 8e-6}
    assert {term: float(terms["AP50", term]["sum of squares"]) for term in squares} == pytest.approx(squares, rel=1e-2)
    assert terms["AP50", "lr × batch"]["share"] == f"{100 * 32e-4 / sum(squares.values()):.1f} %"
    assert float(terms["AP50", "lr"]["F"]) == pytest.approx(8e-4 / 2e-6, rel=1e-2)
    effects = {row["level"]: row for row in rows(page, 1)}
    assert effects["lr=0.01"]["effect on AP50"] == "-0.0100"
    # s² = 2e-6 over eight runs: 0.0005, and Student's 2.776 of it to each side.
    assert effects["lr=0.01"]["standard error"] == "0.0005"
    assert effects["lr=0.01"]["95 % interval"] == "-0.0114 to -0.0086"
    assert {row["levels"]: row["effect on AP50"] for row in rows(page, 2)}["lr=0.01, batch=16"] == "-0.0200"
    assert [plot.name for plot in page.plots] == ["interaction_lr_batch"]
    assert "95 %" not in " ".join(found["Factor: lr"].paragraphs[1:])
    assert "-0.060 to +0.020 in 4 pairs of runs" in found["Factor: lr"].paragraphs[2]


def test_all_of_it_is_there_for_programs(one_at_a_time, tmp_path):
    plain = json.loads(factor_report_of(*one_at_a_time).files["factors.json"])
    assert (plain["factors"], plain["baseline"]) == ({"lr": [0.001, 0.005, 0.01], "batch": [8, 16]}, "base")
    assert (plain["factorial"], plain["analyses"]) == (False, {})
    lost = next(run for run in plain["runs"] if run["state"] == "failed")
    assert (lost["id"], lost["seed"], lost["diverged_at"], lost["best_epoch"]) == ("lr0.01", 2, 23, 4)
    study = factorial()
    results = [trained(tmp_path, entry, values=[0.4] * 3) for entry in study.entries]
    analysis = json.loads(factor_report_of(study, results).files["factors.json"])["analyses"]["coco/bbox_mAP_50"]
    assert analysis["mean"] == pytest.approx(0.4)
    assert analysis["cells"][0] == {"levels": [0.001, 8], "mean": pytest.approx(0.4), "std": None, "n": 1}


def test_the_best_combination_of_a_factorial_is_not_the_best_levels_together(tmp_path):
    study = factorial(lrs=(0.001, 0.01), batches=(8, 16))
    value = {(0.001, 8): 0.40, (0.01, 8): 0.39, (0.001, 16): 0.30, (0.01, 16): 0.45}
    found = factor_report_of(
        study, [trained(tmp_path, e, values=[value[tuple(e.factors.values())]] * 3) for e in study.entries]
    )
    texts = found.sections[-1].paragraphs
    assert texts[0].endswith("lr=0.01, batch=8.")
    assert texts[1].startswith("Together they reach 0.390 (1).")
    assert "lr=0.01, batch=16, AP50 0.450 (1)" in texts[1]
    assert "Run already, as lr0.01_bs16" in texts[2]
    effects = found.sections[-2]
    assert "no intervals, no tests" in " ".join(effects.paragraphs)
    assert "95 % interval" not in effects.tables[1].headers


def test_diverged_runs_of_a_factorial_are_counted(tmp_path):
    study = factorial(seeds=(0, 1))
    *others, last = study.entries
    results = [trained(tmp_path, e, seed) for e in others for seed in e.seeds]
    results += [trained(tmp_path, last, 0), diverged(tmp_path, last, 1)]
    text = " ".join(sections(study, results)["Main effects and interactions"].paragraphs)
    assert "Runs without numbers, and so left out: 1 (of them diverged: 1; what is said here is of the others)" in text
    assert "type III" in text


def test_the_design_is_read_off_the_entries():
    mini = design(load_study("vim_ofat/mini"))
    assert mini.is_factorial
    assert mini.factors == {"lr": (0.001, 0.01), "batch": (8, 32), "optimizer": ("AdamW", "SGD", "RMSProp")}
    assert [len(mini.at("optimizer", level)) for level in mini.factors["optimizer"]] == [4, 4, 4]
    one = design(ofat())
    assert [e.id for e in one.at("lr", 0.001)] == ["base"]
    # A run of the best levels together, added to one factor at a time, is no level's.
    study = ofat()
    both = replace(study.entry("bs16"), id="both", factors={"lr": 0.01, "batch": 16})
    more = design(replace(study, entries=(*study.entries, both)))
    assert not more.is_factorial
    assert [e.id for e in more.at("lr", 0.01)] == ["lr0.01"]
    lacking = replace(study.entry("bs16"), factors={"batch": 16})
    with pytest.raises(ValueError, match="Entry bs16 has no level of the factor lr"):
        design(replace(study, entries=(*study.entries[:-1], lacking)))


def test_nothing_is_added_without_factors_or_runs(tmp_path):
    study = ofat()
    plain = replace(study, entries=tuple(replace(e, factors={}) for e in study.entries))
    assert factor_report_of(plain, [trained(tmp_path, plain.entries[0])]).sections == ()
    assert factor_report_of(study, [absent(tmp_path, e) for e in study.entries]).sections == ()


def test_smoke_runs_are_taken_where_there_are_no_others(tmp_path):
    study = ofat()
    results = [absent(tmp_path, e) for e in study.entries] + [trained(tmp_path, e, mode="smoke") for e in study.entries]
    found = sections(study, results)
    assert rows(found["Comparison (smoke runs)"])[0]["mAP@0.5"].endswith("(1)")
    assert found["Factor: lr (smoke runs)"].paragraphs[0].startswith("These are smoke runs:")


@pytest.mark.slow
def test_a_factorial_that_has_just_begun_has_no_effects_yet(tmp_path):
    study = factorial()
    first, *_, last = study.entries
    results = [trained(tmp_path, first), trained(tmp_path, last, values=FAST)]
    found = factor_report_of(study, results)
    assert [s.title for s in found.sections] == ["Comparison", "Factor: lr", "Factor: batch", "Next run"]
    assert "Too few combinations" in found.sections[-1].paragraphs[1]
    # Nothing at lr=0.01 has a partner, whatever its batch size costs.
    assert "and no run at lr=0.001 is its like in all else" in found.sections[1].paragraphs[2]
    assert "times" not in found.sections[1].paragraphs[2]
    # The best levels by such means may be an entry that nobody has run.
    results = [trained(tmp_path, study.entries[1]), trained(tmp_path, study.entries[2], values=FAST)]
    text = factor_report_of(study, [*results, absent(tmp_path, first)]).sections[-1].paragraphs[-1]
    assert text.startswith("Run already, as lr0.01_bs8")
    lost = [absent(tmp_path, last), trained(tmp_path, first, values=FAST[:1]), *results]
    lost[-2] = trained(tmp_path, study.entries[1], values=FAST)
    text = factor_report_of(study, lost).sections[-1].paragraphs[-1]
    assert text.startswith("It is the entry lr0.01_bs16, which no run has finished:")


def test_the_report_has_it_all(one_at_a_time, tmp_path):
    study, results = one_at_a_time
    paths = {path.name for path in write_report(study, results, tmp_path / "report")}
    assert {"next_run.py", "factors.json", "factor_lr.png", "factor_batch.png"} <= paths
    titles = re.findall(r"^## (.*)$", (tmp_path / "report" / "report.md").read_text(), re.MULTILINE)
    assert titles.index("Comparison") < titles.index("Factor: lr") < titles.index("Next run")
    assert "diverged at iteration 23" in Path(tmp_path / "report" / "report.html").read_text()
