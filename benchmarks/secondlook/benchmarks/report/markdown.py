"""A report in Markdown: its plots are files beside it."""

from __future__ import annotations

from collections.abc import Sequence

from secondlook.benchmarks.report.document import Document, Example, Plot, Table

__all__ = ["as_markdown", "part_lines"]


def as_markdown(documents: Sequence[Document], plots: str) -> str:
    """Whole documents, one after the other; `plots` is the folder of the plots' SVG files."""
    return "\n\n".join(line for document in documents for line in _document(document, plots)) + "\n"


def _document(document: Document, plots: str) -> list[str]:
    lines = [f"# {_escaped(document.title)}", document.lead]
    for section in document.sections:
        lines += [f"## {section.title}", *map(_escaped, section.text)]
        lines += part_lines(section.parts, plots)
    return lines


def part_lines(parts: Sequence[Table | Plot | Example], plots: str) -> list[str]:
    """Paragraphs of a section's parts; `plots` as above."""
    lines: list[str] = []
    for part in parts:
        if isinstance(part, Plot):
            lines.append(f"![{part.title}]({plots}/{part.name}.svg)")
            lines.append(f"*{part.title}.* {part.caption}".strip())
        elif isinstance(part, Table):
            lines += [_table(part), *([_escaped(part.note)] if part.note else [])]
        else:
            lines.append(_example(part))
    return lines


def _table(table: Table) -> str:
    align = ("---", *("---:" for _ in table.columns[1:]))
    rows = (table.columns, align, *table.rows)
    return "\n".join(f"| {' | '.join(map(_escaped, row))} |" for row in rows)


def _example(example: Example) -> str:
    told = "; ".join(f"{what} {text}" for what, text in example.answers)
    return f"* **{example.title}**: {_escaped(example.question)} {_escaped(told)}".replace("\n", " ")


def _escaped(text: str) -> str:
    for sign in ("\\", "|", "*", "_", "<", "`"):
        text = text.replace(sign, f"\\{sign}")
    return text.replace("\n", " ")
