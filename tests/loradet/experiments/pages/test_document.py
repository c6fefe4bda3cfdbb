"""A page as Markdown."""

from loradet.experiments.pages.document import Document, Section, Table, to_markdown


def test_a_bold_row_with_an_empty_cell():
    table = Table(headers=["run", "detail"], rows=[["a", ""], ["b", "x"]], bold=frozenset({(0, 0), (0, 1), (1, 1)}))
    text = to_markdown(Document("Page", [], [Section("Best"), Section("Rows", tables=[table])]))
    assert "| **a**" in text and "**x**" in text and "****" not in text
