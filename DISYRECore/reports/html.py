"""HTML pages in one file each: no script, nothing loaded from elsewhere, readable in light and dark and on paper."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

_BASE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1f24; --soft: #5b6570; --line: #d9dee3 }
@media (prefers-color-scheme: dark) {
  :root { --paper: #15181c; --ink: #e6e9ec; --soft: #9aa4ae; --line: #343a41 }
}
body { max-width: 1040px; margin: 0 auto; padding: 24px; background: var(--paper); color: var(--ink);
  font: 15px/1.45 system-ui, "Segoe UI", "Helvetica Neue", Arial, sans-serif }
"""

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""


def html_page(title: str, style: str, parts: Sequence[str]) -> str:
    """A whole page of HTML parts, with a style beyond what all pages share."""
    return _PAGE.format(title=escape(title), style=_BASE + style, body="\n".join(parts))


def html_table(rows: Iterable[Sequence[str]], heads: Sequence[str] = ()) -> str:
    """A table of plain texts."""
    lines = ["".join(f"<th>{escape(head)}</th>" for head in heads)] if heads else []
    lines += ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows]
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"
