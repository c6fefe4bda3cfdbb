"""The HTML form of a page: one file that needs nothing else."""

import base64
from html import escape

from loradet.experiments.pages.document import Document, Section, Strip, Table
from loradet.experiments.pages.figures import Plot


def to_html(document: Document) -> str:
    """The page with its plots, style and script inside; without the script everything is shown all the same."""
    body = [f"<h1>{escape(document.title)}</h1>", *_paragraphs(document.paragraphs)]
    parts = [_section(section) for section in document.sections]
    # Before the first table, so that the page opens with what it has to say.
    tabled = [place for place, section in enumerate(document.sections) if section.tables]
    parts.insert(tabled[0] if tabled else len(parts), [_FILTER])
    body += [line for part in parts for line in part]
    return _PAGE.format(title=escape(document.title), style=_STYLE, script=_SCRIPT, body="\n".join(body))


def _section(section: Section) -> list[str]:
    return [
        "<section>",
        f"<h2>{escape(section.title)}</h2>",
        *_paragraphs(section.paragraphs),
        *(_table(table) for table in section.tables),
        *(_figure(plot) for plot in section.plots),
        *_paragraphs(section.notes),
        *(_strip(strip) for strip in section.strips),
        "</section>",
    ]


def _paragraphs(texts) -> list[str]:
    return [f"<p>{escape(text)}</p>" for text in texts]


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in table.headers)
    rows = "\n".join(
        "<tr>"
        + "".join(
            f"<td{_kind(name)}>{f'<b>{escape(cell)}</b>' if (y, x) in table.bold else escape(cell)}</td>"
            for x, (name, cell) in enumerate(zip(table.headers, row))
        )
        + "</tr>"
        for y, row in enumerate(table.rows)
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>'


def _kind(header: str) -> str:
    return ' class="reported"' if header.endswith("reported") else ""


def _figure(plot: Plot) -> str:
    caption = escape(plot.caption)
    image = (
        f'<img src="{_svg(plot)}" width="{plot.width}" height="{plot.height}" alt="{caption}" '
        f'style="min-width: {min(plot.width, _READABLE)}px">'
    )
    if plot.narrow is not None:
        narrow = f'<source media="(max-width: {_NARROW}px)" srcset="{_svg(plot.narrow)}">'
        image = f'<picture class="both">{narrow}{image}</picture>'
    return f'<figure><div class="wide plot">{image}</div><figcaption>{caption}</figcaption></figure>'


def _svg(plot: Plot) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(plot.svg).decode('ascii')}"


def _strip(strip: Strip) -> str:
    images = "".join(
        f'<img src="data:image/jpeg;base64,{base64.b64encode(one.jpg).decode("ascii")}" width="{one.width}" '
        f'height="{one.height}" alt="{escape(one.alt)}">'
        for one in strip.pictures
    )
    return f'<h3>{escape(strip.title)}</h3><div class="strip">{images}</div>'


_READABLE = 640  # pixels: narrower, the letters of a plot are too small, and it scrolls instead
_NARROW = 600
_FILTER = '<p class="filter"><label>Show rows with <input type="search" placeholder="E0002, smoke …"></label></p>'
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
<script>{script}</script>
</body>
</html>
"""

_STYLE = """
:root { color-scheme: light dark; --ink: #222; --soft: #555; --paper: #fff; --line: #ddd; --strong: #888;
  --hover: #f3f6fa; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e4e4; --soft: #aaa; --paper: #161616; --line: #383838;
  --strong: #777; --hover: #24292f; }
  .plot img { filter: invert(.914) hue-rotate(180deg); } }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  padding: 0 1rem; max-width: 90rem; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; } h3 { font-size: 14px; margin: 1rem 0 .3rem; }
p { max-width: 50rem; }
section:first-of-type p:first-of-type { font-size: 1.15rem; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap; }
th { border-bottom: 2px solid var(--strong); cursor: pointer; vertical-align: bottom; background: var(--paper); }
th[aria-sort=ascending]::after { content: " \\25B2"; } th[aria-sort=descending]::after { content: " \\25BC"; }
tr { background: var(--paper); } tbody tr:hover { background: var(--hover); }
td:first-child, th:first-child { position: sticky; left: 0; background: inherit; }
td.reported { color: var(--soft); font-style: italic; }
figure { margin: 1.5rem 0; } .plot { margin: 0; } figcaption { color: var(--soft); font-size: 13px; }
img { max-width: 100%; height: auto; }
.plot > img { max-width: none; } .plot > .both > img { min-width: 0 !important; }
.strip { display: flex; flex-wrap: wrap; gap: 4px; } .strip img { flex: 0 1 auto; max-width: calc(25% - 3px); }
input { font: inherit; padding: .2rem .4rem; }
@media (max-width: 600px) { body { margin: 1rem auto; padding: 0 .7rem; } h1 { font-size: 1.3rem; }
  td:nth-child(2) { white-space: normal; min-width: 9rem; } .strip img { max-width: calc(50% - 2px); } }
@media print { .filter { display: none; } }
"""

# Click on a column's name sorts by it: numbers by their leading number, what has none at the end.
_SCRIPT = """
function key(row, column) {
  const text = row.cells[column].textContent;
  const number = parseFloat(text.replace("\\u2212", "-"));
  return [Number.isNaN(number) ? Infinity : number, text];
}
for (const head of document.querySelectorAll("th")) {
  head.addEventListener("click", () => {
    const table = head.closest("table"), body = table.tBodies[0], column = head.cellIndex;
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...body.rows].map(row => [key(row, column), row]);
    rows.sort(([a], [b]) => {
      if (a[0] !== b[0]) {
        if (a[0] === Infinity || b[0] === Infinity) return a[0] === Infinity ? 1 : -1;
        return down ? b[0] - a[0] : a[0] - b[0];
      }
      return down ? b[1].localeCompare(a[1]) : a[1].localeCompare(b[1]);
    });
    body.append(...rows.map(([, row]) => row));
  });
}
document.querySelector(".filter input").addEventListener("input", event => {
  const wanted = event.target.value.toLowerCase().split(/\\s+/).filter(Boolean);
  for (const row of document.querySelectorAll("tbody tr")) {
    const text = row.textContent.toLowerCase();
    row.hidden = !wanted.every(word => text.includes(word));
  }
});
"""
