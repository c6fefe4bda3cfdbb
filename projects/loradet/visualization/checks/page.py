"""The page of a check: one HTML file that needs nothing else, for desk and phone, in light and dark."""

import os
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np

from loradet.datasets.checks import Problem, SetReport
from loradet.datasets.checks.anchors import AnchorReport
from loradet.datasets.checks.findings import by_kind, repair_of
from loradet.datasets.files import expand
from loradet.files import atomic_open
from loradet.visualization.checks.charts import CLASSES, class_bars, histogram
from loradet.visualization.checks.pictures import WorstPicture, worst_pictures

_BOX_KEYS = {"faulty": "boxes named below", "other": "other boxes"}
_SHOWN = 50  # findings of a kind
_OPEN = 3  # of which so many are seen without a click
_SIZES, _ASPECTS = 2 ** np.arange(0, 10.51, 0.5), 2 ** np.arange(-4, 4.01, 0.5)
_SIZE_TICKS = {str(size): size for size in (1, 4, 16, 32, 96, 256, 1024)}
_ASPECT_TICKS = {"1:16": 1 / 16, "1:4": 1 / 4, "1:2": 1 / 2, "1": 1, "2": 2, "4": 4, "16": 16}


def write_check_page(
    report: SetReport, path: str | os.PathLike, anchors: Mapping[str, AnchorReport] | None = None
) -> Path:
    """Write the page, whole or not at all; its folder is made.

    Args:
        report: what was found.
        path: of the page.
        anchors: how the boxes of each split fare with a detector's anchors.
    """
    path, anchors = expand(path), anchors or {}
    parts = [
        f"<h1>{escape(_title(report))}</h1>",
        _overview(report),
        *_findings(report),
        *_charts(report),
        *_anchors(anchors),
        *_pictures(worst_pictures(report, anchors), report),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_open(path) as file:
        file.write(_PAGE.format(style=_STYLE, body="\n".join(parts)))
    return path


def _title(report: SetReport) -> str:
    problems = len(report.problems) + sum(len(one.problems) for one in report.reports.values())
    return f"Check of the data: {problems or 'no'} problem{'s' * (problems != 1)}"


def _overview(report: SetReport) -> str:
    rows = []
    for number, (name, one) in enumerate(report.reports.items()):
        boxes = report.contents[name].boxes
        counts = one.images, len(boxes.rows), len(one.problems), len(one.warnings)
        label = f'<i class="key s{number % 6}"></i>{escape(name)}'
        rows.append([label, *map(str, counts), escape(str(one.json_file))])
    return _table(["split", "images", "sound boxes", "problems", "warnings", "file"], rows)


def _findings(report: SetReport) -> Iterable[str]:
    for name, one in report.reports.items():
        yield from _kinds(f"Found in {name}", one.problems, one.warnings, one.notes)
    yield from _kinds("Found between the splits", report.problems, report.warnings, ())


def _kinds(title: str, problems: Sequence[Problem], warnings: Sequence[Problem], notes: Sequence[str]) -> Iterable[str]:
    if not problems and not warnings and not notes:
        return
    yield f"<h2>{escape(title)}</h2>"
    for mark, several in (("problem", problems), ("warning", warnings)):
        for kind, found in by_kind(several).items():
            items = "".join(f"<li>{escape(str(problem))}</li>" for problem in found[:_SHOWN])
            more = f"<p>… and {len(found) - _SHOWN} more</p>" if len(found) > _SHOWN else ""
            seen = " open" * (len(found) <= _OPEN)
            yield (
                f'<details class="{mark}"{seen}><summary><b>{escape(kind)}</b>: {len(found)} '
                f"<span>--fix {escape(repair_of(kind))}</span></summary><ul>{items}</ul>{more}</details>"
            )
    yield from (f'<p class="note">{escape(note)}</p>' for note in notes)


def _charts(report: SetReport) -> Iterable[str]:
    sides = {name: one.boxes.xywh[~one.boxes.crowd, 2:] for name, one in report.contents.items()}
    sides = {name: of_split for name, of_split in sides.items() if len(of_split)}
    if not sides:
        return
    counts = {name: report.contents[name].class_counts for name in report.contents}
    classes = len({one for of_split in counts.values() for one in of_split})
    sizes = {name: np.sqrt(of_split.prod(axis=1)) for name, of_split in sides.items()}
    aspects = {name: of_split[:, 0] / of_split[:, 1] for name, of_split in sides.items()}
    keys = " ".join(
        f'<span><i class="key s{number % 6}"></i>{escape(name)}</span>' for number, name in enumerate(report.contents)
    )
    order = list(report.contents)
    sizes, aspects = ({name: of.get(name, np.array([])) for name in order} for of in (sizes, aspects))
    yield f'<h2>Boxes</h2><p class="keys">{keys}</p><div class="charts">'
    yield _figure(
        histogram(sizes, _SIZES, _SIZE_TICKS, "square root of the area, pixels", "box sizes"),
        "Sizes: share of the boxes of each split. COCO calls boxes under 32 small, from 96 on large.",
    )
    yield _figure(
        histogram(aspects, _ASPECTS, _ASPECT_TICKS, "width / height", "aspect ratios"),
        "Shapes: share of the boxes of each split.",
    )
    more = f" The {CLASSES} most frequent of {classes} classes." if classes > CLASSES else ""
    yield "</div>"
    yield _figure(class_bars(counts, "classes"), f"Classes: share of the boxes of each split.{more}", "classes")


def _figure(svg: str, caption: str, kind: str = "") -> str:
    return f"<figure class='{kind}'>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def _anchors(anchors: Mapping[str, AnchorReport]) -> Iterable[str]:
    if not anchors:
        return
    rule = next(iter(anchors.values())).rule
    yield f"<h2>Boxes that no anchor reaches by IoU {rule.threshold:g}</h2>"
    then = "are learned from their best anchor alone" if rule.low_quality else "have no positive anchor"
    yield f"<p>{escape(str(rule.resize).capitalize())}. Such boxes {then}.</p>"
    rows = []
    for split, of_split in anchors.items():
        for name, count, under, middle in of_split.rows():
            if count:
                cells = [split, name, str(count), str(under), f"{100 * under / count:.1f} %", f"{middle:.2f}"]
                rows.append([escape(cell) for cell in cells])
    yield _table(["split", "size", "boxes", "unreached", "share", "median best IoU"], rows)


def _pictures(worst: Sequence[WorstPicture], report: SetReport) -> Iterable[str]:
    if not worst:
        if any(content.image_root is None for content in report.contents.values()):
            yield '<p class="note">Pictures were not opened, so that none is shown: give --images.</p>'
        return
    yield f"<h2>The {len(worst)} pictures with most findings</h2>"
    keys = "".join(f'<span><i class="key {kind}"></i>{text}</span>' for kind, text in _BOX_KEYS.items())
    yield f'<p class="keys">{keys}</p>'
    yield '<div class="pictures">'
    for one in worst:
        head = f"<b>{escape(one.split)}, image {escape(str(one.image_id))}</b> {escape(one.file_name)}"
        told = [escape(f"{problem.kind}: {problem.message}") for problem in one.findings[:_OPEN]]
        told += [f"… and {len(one.findings) - _OPEN} more"] * (len(one.findings) > _OPEN)
        caption = "<br>".join([head, *told])
        yield f'<figure><img loading="lazy" src="{one.uri}" alt="{escape(one.file_name)}">'
        yield f"<figcaption>{caption}</figcaption></figure>"
    yield "</div>"


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; its cells are HTML."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in headers)
    body = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Check of the data</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""

_STYLE = """
:root { color-scheme: light dark; --page: #fff; --ink: #1d1d1f; --soft: #5c5c63; --line: #dcdce0; --card: #f5f5f7;
  --bad: #b3261e; --warn: #8a5a00; --c0: #1f6fd0; --c1: #c4560d; --c2: #1b8a5a; --c3: #8e4ec6; --c4: #a8407a;
  --c5: #5f6b7a; }
@media (prefers-color-scheme: dark) { :root { --page: #131316; --ink: #ececf0; --soft: #a3a3ad; --line: #37373d;
  --card: #1f1f24; --bad: #ff8a80; --warn: #f2b950; --c0: #6cb0ff; --c1: #ff9d5c; --c2: #57cf9b; --c3: #c59bf2;
  --c4: #f08cc0; --c5: #a9b4c2; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); margin: 0; }
main { max-width: 72rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; line-height: 1.25; } h2 { font-size: 1.15rem; margin: 2rem 0 .6rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem .3rem 0; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap; }
th { color: var(--soft); font-weight: 500; }
details { background: var(--card); border-left: 4px solid var(--warn); border-radius: 4px; margin: .4rem 0;
  padding: .45rem .8rem; }
details.problem { border-color: var(--bad); }
summary { cursor: pointer; } summary span { color: var(--soft); font-size: .9rem; display: block; }
ul { margin: .5rem 0; padding-left: 1.1rem; } li { overflow-wrap: anywhere; font-size: .9rem; }
.note, figcaption { color: var(--soft); font-size: .9rem; } .note { max-width: 50rem; }
.charts, .pictures { display: grid; gap: 1.2rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); }
figure { margin: 0; min-width: 0; } .classes { max-width: 34rem; margin-top: 1.2rem; }
figcaption { overflow-wrap: anywhere; margin-top: .3rem; }
svg, img { width: 100%; height: auto; display: block; } img { border-radius: 4px; }
svg text { fill: var(--ink); font: 12px system-ui, sans-serif; }
svg text.small { fill: var(--soft); font-size: 10.5px; }
.grid { stroke: var(--line); stroke-width: 1; } .line { fill: none; stroke-width: 2; stroke-linejoin: round; }
.keys span { margin-right: 1rem; white-space: nowrap; }
.key { display: inline-block; width: .8rem; height: .8rem; border-radius: 2px; margin-right: .4rem; }
.faulty { background: #ff3b30; } .other { background: #5ac8fa; }
.line.s0 { stroke: var(--c0); } .line.s1 { stroke: var(--c1); } .line.s2 { stroke: var(--c2); }
.line.s3 { stroke: var(--c3); } .line.s4 { stroke: var(--c4); } .line.s5 { stroke: var(--c5); }
.bar.s0 { fill: var(--c0); } .bar.s1 { fill: var(--c1); } .bar.s2 { fill: var(--c2); }
.bar.s3 { fill: var(--c3); } .bar.s4 { fill: var(--c4); } .bar.s5 { fill: var(--c5); }
.key.s0 { background: var(--c0); } .key.s1 { background: var(--c1); } .key.s2 { background: var(--c2); }
.key.s3 { background: var(--c3); } .key.s4 { background: var(--c4); } .key.s5 { background: var(--c5); }
"""
