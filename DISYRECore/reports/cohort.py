"""Many cases at a glance: a table for programs and a page for people, what needs a look first."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from html import escape
from pathlib import Path
from urllib.parse import quote

from DISYRECore.detection.findings import rarity_in_words
from DISYRECore.io.files import write_text
from DISYRECore.reports.html import html_page
from DISYRECore.reports.scan import CAVEAT, DISCLAIMER

OK, FAILED, LEFT_OUT, WAITING = "ok", "failed", "left out", "waiting"


@dataclass(frozen=True)
class CaseSummary:
    """One row.

    Attributes:
        case: Its name, also the path of its folder.
        input: Paths of its scans, joined by ``; ``.
        status: ``ok``; ``failed``; ``left out``, being no scan; ``waiting``, not computed yet.
        findings: Their number.
        volume_ml: Of all findings.
        false_findings: Of the rarest finding, see `findings.Finding`; None where there is none, or nobody knows.
        contrast: Of a study several, with a space between.
        seconds: What computing took.
        message: Why it failed, or what a reader should know.
    """

    case: str
    input: str
    status: str
    findings: int | None = None
    volume_ml: float | None = None
    false_findings: float | None = None
    contrast: str = ""
    seconds: float | None = None
    message: str = ""


def write_summary(rows: Iterable[CaseSummary], path: Path) -> None:
    """Writes a CSV table, one row for each case.

    Raises:
        DisyreError: The file cannot be written.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(CaseSummary)])
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    write_text(text.getvalue(), path)


def read_summary(path: Path) -> list[CaseSummary]:
    """Reads what `write_summary` wrote; nothing where there is no such table."""
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"), newline="")))
        return [_from_row(row) for row in rows]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def _from_row(row: dict[str, str]) -> CaseSummary:
    def number(name: str) -> float | None:
        return float(row[name]) if row.get(name) else None

    return CaseSummary(
        case=row["case"],
        input=row.get("input", ""),
        status=row["status"],
        findings=int(row["findings"]) if row["findings"] else None,
        volume_ml=number("volume_ml"),
        false_findings=number("false_findings"),
        contrast=row["contrast"],
        seconds=number("seconds"),
        message=row["message"],
    )


def write_index(rows: Sequence[CaseSummary], folder: Path, report: str, thumbnail: str) -> None:
    """Writes `index.html`: every case with a picture and a link to its report, what needs a look first.

    Args:
        rows: Of the cases.
        folder: That holds their results and gets the page.
        report, thumbnail: Names of these files in the folder of a case.

    Raises:
        DisyreError: The file cannot be written.
    """
    ordered = sorted(rows, key=_urgency)
    cards = "".join(_card(row, folder, report, thumbnail) for row in ordered)
    heading = f"<p class=disclaimer>{DISCLAIMER}</p><h1>{_counted(rows)}</h1>"
    note = f"<p class=note>What needs a look comes first: failures, then rare findings, then doubts. {CAVEAT}</p>"
    write_text(html_page("Cohort", _STYLE, [heading, note, f"<main>{cards}</main>"]), folder / "index.html")


def _urgency(row: CaseSummary) -> tuple[int, float, float, str]:
    """Failures, cases that wait, findings from the rarest on, doubts, and the rest."""
    if row.status != OK:
        return {FAILED: 0, WAITING: 1}.get(row.status, 5), 0, 0, row.case
    rank = 2 if row.findings else 3 if row.message else 4
    rarest = row.false_findings if row.false_findings is not None else float("inf")
    return rank, rarest, -(row.volume_ml or 0), row.case


def _card(row: CaseSummary, folder: Path, report: str, thumbnail: str) -> str:
    name, place = escape(row.case), folder / row.case
    picture = "<i></i>"
    if row.status == OK:
        name = f'<a href="{quote(row.case)}/{report}">{name}</a>'
        picture = _picture(place / thumbnail)
    message = f"<p class=warning>{escape(row.message)}</p>" if row.message else ""
    return f"<article>{picture}<div><h2>{name}</h2><p>{escape(_facts(row))}</p>{message}</div></article>"


def _picture(path: Path) -> str:
    try:
        return f'<img alt="" src="data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}">'
    except OSError:
        return "<i></i>"


def _facts(row: CaseSummary) -> str:
    if row.status != OK:
        return row.status
    if not row.findings:
        return f"{row.contrast}: nothing unusual found"
    rarest = "" if row.false_findings is None else f"; the rarest {rarity_in_words(row.false_findings)}"
    return f"{row.contrast}: {_count(row.findings, 'finding')}, {row.volume_ml or 0:.1f} mL{rarest}"


def _counted(rows: Sequence[CaseSummary]) -> str:
    failed = sum(row.status == FAILED for row in rows)
    return _count(len(rows), "case") + (f", {failed} failed" if failed else "")


def _count(number: int, thing: str) -> str:
    return f"1 {thing}" if number == 1 else f"{number} {thing}s"


_STYLE = """
h1 { font-size: 24px; font-weight: 600; margin: 4px 0 12px }
h2 { font-size: 16px; font-weight: 600; margin: 0; overflow-wrap: anywhere }
p { margin: 4px 0 }
.disclaimer, .note { color: var(--soft); font-size: 13px }
article { display: flex; gap: 16px; padding: 10px 0; border-bottom: 1px solid var(--line); break-inside: avoid }
article img, article > i { width: 128px; height: 128px; object-fit: contain; flex: none; background: #000;
  border-radius: 4px }
a { color: inherit }
.warning { padding: 4px 10px; background: #fff1b8; color: #4a3800; border-left: 4px solid #e0a800; font-size: 13px }
"""
