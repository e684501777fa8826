"""The report of a comparison: a single HTML file with both scans side by side."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from DISYRECore.detection.comparison import Change, Comparison
from DISYRECore.io.files import write_text
from DISYRECore.io.volume import crop_box
from DISYRECore.reports.html import html_page, html_table
from DISYRECore.reports.scan import CAVEAT, DISCLAIMER

MOST_PICTURED = 10
OVERVIEW_SLICES = 6
PIXELS_PER_MM = 2.0
MARGIN_MM = 6.0
WHITE = 1.1
"""Linear intensity that is drawn white; the brain's median is 0.45."""

SIGNS = {True: (255, 120, 40), False: (70, 150, 255)}
"""Outline of what became brighter, and of what became darker."""

PLANES = ((2, "Axial"), (1, "Coronal"))


def write_comparison_report(comparison: Comparison, path: Path, title: str) -> None:
    """Writes the report; the left of each picture is the patient's right.

    Raises:
        DisyreError: The file cannot be written.
    """
    box = crop_box(comparison.brain_mask.voxels > 0, margin=round(MARGIN_MM / comparison.before.spacing_mm[0]))
    pictures = _Pictures(comparison, box)
    body = [
        _header(title, comparison),
        *(_section(pictures, change) for change in comparison.changes[:MOST_PICTURED]),
        _overview(pictures),
        _changes_table(comparison.changes),
        _steady_table(comparison),
        _settings(comparison.record),
    ]
    write_text(html_page(title, _STYLE, body), path)


class _Pictures:
    """Slices of both scans, cut to the brain."""

    def __init__(self, comparison: Comparison, box: tuple[slice, slice, slice]) -> None:
        self.scans = [_grey(volume.voxels[box]) for volume in (comparison.before, comparison.after)]
        self.labels = comparison.labels.voxels[box]
        self.brighter = {change.label: change.brighter for change in comparison.changes}
        self.spacing_mm = comparison.before.spacing_mm

    def row(self, axis: int, index: int, text: str) -> str:
        """The earlier scan, the later one, and the later one with the outlines of what changed."""
        before, after = (_picture(self._plane(scan, axis, index)) for scan in self.scans)
        outlined = _picture(self._outlined(axis, index))
        images = (before, after, outlined)
        cells = [f'<img alt="{escape(text)}" src="data:image/png;base64,{image}">' for image in images]
        return f"<div class=row>{''.join(cells)}</div><p class=note>{escape(text)}</p>"

    def _plane(self, voxels: np.ndarray, axis: int, index: int) -> np.ndarray:
        """(row, column, ...), head or front up, the patient's right on the left, square pixels."""
        cut = np.take(voxels, index, axis=axis)[::-1, ::-1].swapaxes(0, 1)
        across, up = (spacing for other, spacing in enumerate(self.spacing_mm) if other != axis)
        zoom = (up * PIXELS_PER_MM, across * PIXELS_PER_MM)
        return np.asarray(ndimage.zoom(cut, zoom, order=0, grid_mode=True, mode="nearest"))

    def _outlined(self, axis: int, index: int) -> np.ndarray:
        grey, labels = self._plane(self.scans[1], axis, index), self._plane(self.labels, axis, index)
        colours = np.repeat(grey[..., None], 3, axis=2)
        for label in np.unique(labels[labels > 0]).tolist():
            place = labels == label
            colours[ndimage.binary_dilation(place) & ~place] = SIGNS[self.brighter[label]]
        return colours


def _grey(voxels: np.ndarray) -> np.ndarray:
    return (np.clip(voxels / WHITE, 0, 1) * 255).astype(np.uint8)


def _picture(pixels: np.ndarray) -> str:
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


# --- sections


def _header(title: str, comparison: Comparison) -> str:
    warnings = "".join(f"<p class=warning>{escape(doubt)}</p>" for doubt in comparison.doubts)
    heading = f"<p class=disclaimer>{DISCLAIMER}</p><h1>Comparison <span>{escape(title)}</span></h1>"
    return f"<header>{heading}<p class=summary>{escape(summary(comparison))}</p>{warnings}</header>"


def summary(comparison: Comparison) -> str:
    """One sentence on what was found: ``2 changes: 1 new, 1 grown.``"""
    if not comparison.changes:
        found = "No change was found." if comparison.is_meaningful else "The scans are hard to compare."
        return f"{found} {CAVEAT.replace('disease', 'change')}"
    kinds = [change.kind for change in comparison.changes]
    counted = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    return f"{len(kinds)} change{'s' if len(kinds) > 1 else ''}: {counted}."


def _section(pictures: _Pictures, change: Change) -> str:
    places = np.argwhere(pictures.labels == change.label)
    middle = np.median(places, axis=0).astype(int)
    rows = "".join(
        pictures.row(axis, int(middle[axis]), f"{name} slice through change {change.label}") for axis, name in PLANES
    )
    facts = " · ".join(filter(None, (change.kind, change.side, _volume(change))))
    return f"<section><h2>Change {change.label} <span>{facts}</span></h2>{_HEADS}{rows}</section>"


def _overview(pictures: _Pictures) -> str:
    depth = pictures.labels.shape[2]
    places = np.linspace(0, depth - 1, OVERVIEW_SLICES + 2).round().astype(int)[1:-1].tolist()
    rows = "".join(
        pictures.row(2, place, f"Axial slice {place * pictures.spacing_mm[2]:.0f} mm above the lowest")
        for place in places
    )
    note = (
        "Both scans in the space half way between them, intensities matched. Radiological convention: the patient's "
        "left is on the right. Orange: brighter in the later scan; blue: darker."
    )
    return f"<section><h2>Overview</h2><p class=note>{note}</p>{_HEADS}{rows}</section>"


def _volume(change: Change) -> str:
    return f"{change.volume_ml:.2f} ± {change.uncertainty_ml:.2f} mL"


def _changes_table(changes: Sequence[Change]) -> str:
    if not changes:
        return ""
    heads = ("Change", "What", "Side", "Place that changed", "Lesion before", "Lesion after", "Later scan is")
    rows = [
        (
            f"{one.label}",
            one.kind,
            one.side,
            _volume(one),
            _lesion(one.before_ml),
            _lesion(one.after_ml),
            "brighter" if one.brighter else "darker",
        )
        for one in changes
    ]
    return f"<section><h2>Changes</h2>{html_table(rows, heads)}</section>"


def _lesion(volume_ml: float) -> str:
    return f"{volume_ml:.2f} mL" if volume_ml else "none found"


def _steady_table(comparison: Comparison) -> str:
    if not comparison.steady:
        return ""
    rows = [(_lesion(before), _lesion(after)) for before, after in comparison.steady]
    note = (
        "Findings of either scan at places where the scans do not differ: where one scan has none, what is seen in the "
        "other was too faint for it."
        if comparison.is_meaningful
        else "Findings of either scan; whether they changed cannot be told."
    )
    table = html_table(rows, ("Finding before", "Finding after"))
    return f"<section><h2>Findings without a change</h2><p class=note>{note}</p>{table}</section>"


def _settings(record: Mapping[str, Any]) -> str:
    rows = [(name, str(value)) for name, value in record.items()]
    return f"<details><summary>Measures and settings</summary>{html_table(rows)}</details>"


_HEADS = "<div class=heads><p>Before</p><p>After</p><p>After, with what changed</p></div>"

_STYLE = """
* { box-sizing: border-box }
h1, h2 { font-weight: 600; line-height: 1.25 }
h1 { font-size: 24px; margin: 4px 0 12px; overflow-wrap: anywhere }
h2 { font-size: 18px; margin: 32px 0 10px }
h1 span, h2 span { font-weight: 400; color: var(--soft); margin-left: .4em }
.disclaimer, .note, .heads p { color: var(--soft); font-size: 13px; margin: 4px 0 }
.summary { font-size: 18px; margin: 0 0 14px }
.warning { margin: 6px 0; padding: 7px 12px; background: #fff1b8; color: #4a3800; border-left: 4px solid #e0a800 }
.row, .heads { display: grid; grid-template-columns: repeat(3, 1fr); gap: 4px }
.row { background: #000; padding: 6px; border-radius: 4px; break-inside: avoid }
.row img { width: 100% }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: 5px 12px 5px 0; border-bottom: 1px solid var(--line); overflow-wrap: anywhere }
th { font-weight: 600; font-size: 13px; color: var(--soft) }
details { margin: 32px 0 } summary { font-size: 18px; font-weight: 600; cursor: pointer; margin-bottom: 10px }
"""
