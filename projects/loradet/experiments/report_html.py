"""The HTML form of a page: one file that needs nothing else."""

import base64
from html import escape

from loradet.experiments.document import Document, Section, Table
from loradet.experiments.figures import Plot


def to_html(document: Document) -> str:
    """The page with its plots, style and script inside; without the script everything is shown all the same."""
    body = [f"<h1>{escape(document.title)}</h1>", *_paragraphs(document.paragraphs)]
    body.append(
        '<p class="filter"><label>Show rows with <input type="search" placeholder="E0002, smoke …"></label></p>'
    )
    body += [part for section in document.sections for part in _section(section)]
    return _PAGE.format(title=escape(document.title), style=_STYLE, script=_SCRIPT, body="\n".join(body))


def _section(section: Section) -> list[str]:
    return [
        "<section>",
        f"<h2>{escape(section.title)}</h2>",
        *_paragraphs(section.paragraphs),
        *(_table(table) for table in section.tables),
        *_paragraphs(section.notes),
        *(_figure(plot) for plot in section.plots),
        "</section>",
    ]


def _paragraphs(texts) -> list[str]:
    return [f"<p>{escape(text)}</p>" for text in texts]


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in table.headers)
    rows = "\n".join(
        "<tr>" + "".join(f"<td{_kind(name)}>{escape(cell)}</td>" for name, cell in zip(table.headers, row)) + "</tr>"
        for row in table.rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>'


def _kind(header: str) -> str:
    return ' class="reported"' if header.endswith("reported") else ""


def _figure(plot: Plot) -> str:
    data = base64.b64encode(plot.svg).decode("ascii")
    caption = escape(plot.caption)
    return (
        f'<figure><img src="data:image/svg+xml;base64,{data}" width="{plot.width}" height="{plot.height}" '
        f'alt="{caption}"><figcaption>{caption}</figcaption></figure>'
    )


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
body { font: 15px/1.45 system-ui, sans-serif; color: #222; margin: 2rem auto; padding: 0 1rem; max-width: 90rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
p { max-width: 50rem; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #ddd; text-align: left; white-space: nowrap; }
th { border-bottom: 2px solid #888; cursor: pointer; vertical-align: bottom; background: #fff; }
th[aria-sort=ascending]::after { content: " \\25B2"; } th[aria-sort=descending]::after { content: " \\25BC"; }
tbody tr:hover { background: #f3f6fa; }
td:first-child, th:first-child { position: sticky; left: 0; background: inherit; } tr { background: #fff; }
td.reported { color: #666; font-style: italic; }
figure { margin: 1.5rem 0; } img { max-width: 100%; height: auto; } figcaption { color: #555; font-size: 13px; }
input { font: inherit; padding: .2rem .4rem; }
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
