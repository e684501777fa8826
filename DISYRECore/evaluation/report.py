"""The report of an evaluation: one HTML file with curves, tables and pictures that needs nothing but a browser."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from DISYRECore.evaluation.datasets import Case
from DISYRECore.evaluation.streaming import CachedPrediction
from DISYRECore.io.average_head import average_head
from DISYRECore.io.files import write_text
from DISYRECore.io.labels import CSF, GREY, WHITE
from DISYRECore.io.volume import Volume, crop, crop_box, resample, to_canonical
from DISYRECore.reports.html import html_page, html_table

DISCLAIMER = "Research use only. Not a medical device."
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
PICTURE_MM = 0.7
HEAT, TRUTH = np.array([255.0, 90.0, 0.0]), np.array([0, 229, 255], np.uint8)
TEMPLATE_SLICES = 8
MAP_FULL = 0.05
"""Share of scans that the healthy map shows in its brightest colour, unless there is more."""


@dataclass(frozen=True)
class Pictures:
    """What is drawn of one method on one contrast; made while the scores are on disk.

    Attributes:
        cases: Caption and PNG of the best, median and worst case.
        healthy: Share of scans with a false positive, on the grid of the average head; None without healthy scans.
        scans: How many scans are in it.
    """

    cases: list[tuple[str, bytes]] = field(default_factory=list)
    healthy: np.ndarray | None = None
    scans: int = 0

    @staticmethod
    def make(scored: Sequence[CachedPrediction], cases: Sequence[Case], rows: Sequence[Mapping[str, Any]]) -> Pictures:
        """Draws the cases that stand out and adds up the false positives of the scans without a lesion.

        Args:
            scored: The scored cases.
            cases: The dataset's, in any order, with those names.
            rows: Per-case figures in the order of `scored`.
        """
        source = {case.name: case for case in cases}
        drawn = []
        for title, index in _outstanding(rows):
            row = rows[index]
            text = f"{title}: {row['case']}, Dice {_show(row['dice_at_default'])}, AP {_show(row['ap'])}"
            drawn.append((text, _picture(source[scored[index].name], scored[index])))
        healthy = [one for one, row in zip(scored, rows, strict=True) if not row["lesion_ml"]]
        return Pictures(drawn, _healthy_map(healthy), len(healthy))


def _outstanding(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, int]]:
    """The best, median and worst case with a lesion, by Dice at the default threshold."""
    sick = [i for i, row in enumerate(rows) if row["lesion_ml"] and row["dice_at_default"] is not None]
    order = sorted(sick, key=lambda i: (-rows[i]["dice_at_default"], -(rows[i]["ap"] or 0)))
    if not order:
        return []
    chosen = {"Best": order[0], "Median": order[len(order) // 2], "Worst": order[-1]}
    return [(title, i) for n, (title, i) in enumerate(chosen.items()) if i not in list(chosen.values())[:n]]


def _picture(case: Case, scored: CachedPrediction) -> bytes:
    """Scan, and scan with what is above the threshold (orange) and the outline of the truth (cyan), three planes."""
    scan, _, _ = case.load()
    score, truth, brain = scored.volumes()
    volumes = [to_canonical(Volume(v, scan.affine)) for v in (scan.voxels, score, truth, brain)]
    box = crop_box(volumes[3].voxels.astype(bool), margin=2)
    image, heat, lesion, inside = (crop(volume, box) for volume in volumes)
    low, high = np.percentile(image.voxels[inside.voxels.astype(bool)], (1, 99))
    grey = np.clip((image.voxels - low) / max(high - low, 1e-9), 0, 1) * 255
    above = heat.voxels > scored.threshold
    place = _centre(lesion.voxels.astype(bool))
    rows = [_planes(grey, above, lesion.voxels.astype(bool), axis, place[axis], image.spacing_mm) for axis in (2, 1, 0)]
    return _png(_side_by_side([panel for pair in rows for panel in pair]))


def _centre(lesion: np.ndarray) -> tuple[int, ...]:
    """For each axis the index of the slice with most lesion."""
    return tuple(int(lesion.sum(axis=tuple(a for a in range(3) if a != axis)).argmax()) for axis in range(3))


def _planes(
    grey: np.ndarray, above: np.ndarray, lesion: np.ndarray, axis: int, index: int, spacing_mm: tuple[float, ...]
) -> list[np.ndarray]:
    """RGB of one slice, plain and with its marks; radiological convention."""
    across, up = (spacing_mm[other] for other in range(3) if other != axis)

    def plane(voxels: np.ndarray, resampling: Image.Resampling) -> np.ndarray:
        cut = np.take(voxels, index, axis=axis)[::-1, ::-1].T.astype(np.uint8)
        size = (round(cut.shape[1] * across / PICTURE_MM), round(cut.shape[0] * up / PICTURE_MM))
        return np.asarray(Image.fromarray(np.ascontiguousarray(cut)).resize(size, resampling))

    plain = np.repeat(plane(grey, Image.Resampling.BICUBIC)[..., None], 3, 2)
    marked, mask = (plane(m, Image.Resampling.NEAREST) > 0 for m in (above, lesion))
    overlaid = np.where(marked[..., None], 0.5 * plain + 0.5 * HEAT, plain).astype(np.uint8)
    overlaid[ndimage.binary_dilation(mask, iterations=2) & ~mask] = TRUTH
    return [plain, overlaid]


def _side_by_side(panels: Sequence[np.ndarray]) -> np.ndarray:
    height = max(panel.shape[0] for panel in panels)
    padded = []
    for panel in panels:
        missing = height - panel.shape[0]
        padded.append(np.pad(panel, ((missing // 2, missing - missing // 2), (2, 2), (0, 0))))
    return np.concatenate(padded, axis=1)


def _png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, "PNG")
    return stream.getvalue()


# --- false positives in template space


def _healthy_map(cases: Iterable[CachedPrediction]) -> np.ndarray | None:
    """Share of scans with a voxel above the threshold at each place of the average head."""
    total, count = np.zeros(average_head().shape, np.float32), 0
    for case in cases:
        score, _, brain = case.volumes()
        if not brain.any():
            continue
        above = Volume((score > case.threshold).astype(np.float32), case.grid.affine)
        moved = Volume(above.voxels, _to_template(brain, case.grid.affine) @ above.affine)
        total += resample(moved, average_head().grid).voxels
        count += 1
    return total / count if count else None


def _to_template(brain: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Lays a brain over the average brain by its mean and spread along R, A and S, (4, 4) in RAS mm."""
    head = average_head()
    own, average = _points(brain, affine), _points(np.isin(head.voxels, (*GREY, *WHITE, *CSF)), head.affine)
    scale = average.std(axis=0) / own.std(axis=0)
    matrix = np.diag([*scale, 1.0])
    matrix[:3, 3] = average.mean(axis=0) - scale * own.mean(axis=0)
    return matrix


def _points(mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    index = np.argwhere(mask)[:: max(1, int(mask.sum()) // 50_000)]
    return index @ affine[:3, :3].T + affine[:3, 3]


def _template_picture(share: np.ndarray) -> tuple[bytes, float]:
    """Axial slices of the average head with the map, and the share that is drawn brightest."""
    levels = [(CSF, 40), (GREY, 110), (WHITE, 170)]
    whole = np.sum([level * np.isin(average_head().voxels, members) for members, level in levels], axis=0)
    box = crop_box(whole > 0, margin=2)
    grey, share = whole[box], share[box]
    full = max(MAP_FULL, float(share.max()))
    panels = []
    for z in np.linspace(0, len(grey[0, 0]) - 1, TEMPLATE_SLICES + 2).round().astype(int)[1:-1]:
        plain, weight = (np.take(v, z, axis=2)[::-1, ::-1].T[..., None] for v in (grey, np.sqrt(share / full)))
        panels.append((plain * (1 - weight) + HEAT * weight).astype(np.uint8).repeat(2, 0).repeat(2, 1))
    return _png(_side_by_side(panels)), full


# --- the page


def write_evaluation(path: Path, found: Mapping[str, Any], pictures: Mapping[str, Mapping[str, Pictures]]) -> None:
    """Writes the report.

    Args:
        path: The .html file.
        found: What `metrics.json` holds.
        pictures: By contrast and method.

    Raises:
        DisyreError: The file cannot be written.
    """
    title = f"Evaluation on {sum(next(iter(m.values()))['cases'] for m in found['results'].values())} scans"
    body = [f"<p class=soft>{DISCLAIMER}</p><h1>{title}</h1>", *(_warning(text) for text in found["warnings"])]
    for contrast, by_method in found["results"].items():
        body.append(_contrast(contrast, by_method, found["comparisons"][contrast], pictures[contrast]))
    body += [_definitions(found["rules"]), _settings(found)]
    write_text(html_page(title, _STYLE, body), path)


def _warning(text: str) -> str:
    return f"<p class=warning>{escape(text)}</p>"


def _contrast(
    contrast: str,
    by_method: Mapping[str, Any],
    comparisons: Sequence[Mapping[str, Any]],
    pictures: Mapping[str, Pictures],
) -> str:
    first = next(iter(by_method.values()))
    facts = (
        f"{first['cases']} scans of {first['subjects']} subjects, {first['scans_without_lesion']} without lesion; "
        f"{first['lesions']} lesions; prevalence {_show(first['prevalence'], 4)}"
    )
    sides = (
        f"<div class=charts>{_precision_recall(by_method)}{_froc(by_method)}</div>"
        f"<h3>Between methods</h3>{_comparisons(comparisons)}"
    )
    return (
        f"<section><h2>{escape(contrast)} <span>{facts}</span></h2>{_figures_table(by_method)}"
        f"{_protocols(by_method)}{sides if first['prevalence'] else ''}"
        f"<h3>What each step of the post-processing does</h3>{_steps(by_method)}"
        f"{''.join(_method_pictures(name, one) for name, one in pictures.items())}"
        f"<h3>Case by case</h3>{''.join(_case_table(name, m['per_case']) for name, m in by_method.items())}</section>"
    )


FIGURES = {
    "ap": "AP",
    "oracle_dice": "oracle Dice",
    "mean_best_dice": "best Dice of each case, mean",
    "pooled_dice_at_default": "Dice at default threshold, pooled",
    "mean_dice_at_default": "Dice at default threshold, mean per case",
    "recall_at_0.5_fp": "lesion recall at 0.5 false positives per volume",
    "recall_at_1_fp": "at 1",
    "recall_at_2_fp": "at 2",
    "recall_at_4_fp": "at 4",
    "recall_at_8_fp": "at 8",
    "recall_at_default": "lesion recall at default threshold",
    "precision_at_default": "precision of findings at default threshold",
    "false_positives_at_default": "false positives per volume at default threshold",
    "scan_auroc": "scan-level AUROC",
    "healthy_rate": "voxels above threshold, scans without lesion",
    "false_positive_rate": "healthy voxels above threshold, all scans",
}


def _figures_table(by_method: Mapping[str, Any]) -> str:
    rows = []
    for name, title in FIGURES.items():
        digits = 4 if name.endswith("_rate") else 3
        rows.append([title, *(_with_interval(m, name, digits) for m in by_method.values())])
    return html_table(rows, ["95 % interval over subjects in brackets", *by_method])


def _with_interval(figures: Mapping[str, Any], name: str, digits: int) -> str:
    low, high = figures["intervals"][name]
    bounds = "" if low is None or high is None else f" ({_show(low, digits)} to {_show(high, digits)})"
    return _show(figures[name], digits) + bounds


def _protocols(by_method: Mapping[str, Any]) -> str:
    named = {name: m["protocol"] for name, m in by_method.items() if "protocol" in m}
    if not named:
        return ""
    first = next(iter(named.values()))
    rows = [[key, *(_show(one[key]) for one in named.values())] for key in first if key != "name"]
    return f"<h3>Protocol {escape(first['name'])}</h3>{html_table(rows, ['', *named])}"


def _comparisons(rows: Sequence[Mapping[str, Any]]) -> str:
    cells = []
    for row in rows:
        low, high = row["interval"]
        cells.append(
            [
                f"{row['first']} − {row['second']}",
                FIGURES[row["figure"]] if row["figure"] != "recall_at_1_fp" else "lesion recall at 1 false positive",
                f"{_show(row['difference'])} ({_show(low)} to {_show(high)})",
                _show(row["p"]),
            ]
        )
    return html_table(cells, ["pair", "figure", "difference (95 %)", "p, paired bootstrap over subjects"])


def _steps(by_method: Mapping[str, Any]) -> str:
    keys = {
        "ap": "AP",
        "oracle_dice": "oracle Dice",
        "recall_at_default": "recall",
        "precision_at_default": "precision",
        "false_positives_at_default": "false positives per volume",
    }
    rows = [
        [name, row["step"], *(_show(row[key]) if key in row else "" for key in keys)]
        for name, m in by_method.items()
        for row in m["post_processing"]
    ]
    return html_table(rows, ["method", "step", *keys.values()])


def _case_table(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    heads = {
        "case": "case",
        "lesion_ml": "lesion, mL",
        "ap": "AP",
        "best_dice": "best Dice",
        "dice_at_default": "Dice at default",
        "lesions": "lesions",
        "detected": "detected",
        "findings": "findings",
        "false_positives": "false",
        "scan_score": "scan score",
    }
    cells = [[_cell(row[key]) for key in heads] for row in rows]
    return f"<details><summary>{escape(name)}</summary>{html_table(cells, list(heads.values()))}</details>"


def _method_pictures(name: str, pictures: Pictures) -> str:
    parts = [f"<h3>{escape(name)}: best, median and worst case</h3>"] if pictures.cases else []
    parts += [_figure(png, text) for text, png in pictures.cases]
    if pictures.healthy is not None:
        png, full = _template_picture(pictures.healthy)
        text = (
            f"{name}: where scans without a lesion are above the threshold, {pictures.scans} scans laid over the "
            f"average head by centre and extent of the brain; brightest where {full:.0%} of them are"
        )
        parts.append(_figure(png, text))
    return "".join(parts)


def _figure(png: bytes, text: str) -> str:
    data = base64.b64encode(png).decode()
    caption = escape(text)
    return (
        f'<figure><img alt="{caption}" src="data:image/png;base64,{data}"><figcaption>{caption}</figcaption></figure>'
    )


def _definitions(rules: Mapping[str, str]) -> str:
    rows = [[name.replace("_", " "), text] for name, text in rules.items()]
    colours = "In the pictures: orange above the default threshold, cyan the outline of the truth; the left is right."
    return f"<section><h2>What the figures mean</h2>{html_table(rows)}<p class=soft>{colours}</p></section>"


def _settings(found: Mapping[str, Any]) -> str:
    keys = ("method", "model", "model_sha256", "settings", "contrast_settings", "normalise", "site", "nominal_rate")
    rows = [["disyre", found["disyre"]], ["dataset layout", found["layout"]], ["protocol", found["protocol"]]]
    for name, figures in next(iter(found["results"].values())).items():
        rows += [[f"{name}: {key.replace('_', ' ')}", _cell(figures.get(key))] for key in (*keys, "truth_sha256")]
    return f"<section><h2>Settings</h2>{html_table(rows)}</section>"


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _show(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


# --- charts


def _precision_recall(by_method: Mapping[str, Any]) -> str:
    curves = {name: (m["curve"]["recall"], m["curve"]["precision"]) for name, m in by_method.items()}
    return _chart("Precision over recall, all brain voxels", curves, "recall", "precision", 1.0, lambda x: x)


def _froc(by_method: Mapping[str, Any]) -> str:
    curves = {}
    for name, m in by_method.items():
        rates = np.maximum.accumulate([0.0, *m["froc"]["false_positives"]])
        recall = np.array([0.0, *(0.0 if r is None else r for r in m["froc"]["recall"])])
        near = rates <= 16
        curves[name] = (rates[near].tolist(), recall[near].tolist())
    return _chart("FROC", curves, "false positives per volume", "lesion recall", 16.0, lambda x: (x / 16) ** 0.5 * 16)


def _chart(
    title: str,
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    across: str,
    up: str,
    most: float,
    stretch: Callable[[float], float],
) -> str:
    """An SVG with one line per method; `stretch` maps values along x to places, 0 to `most` on itself."""

    def point(x: float, y: float) -> str:
        return f"{40 + 300 * stretch(x) / most:.1f},{250 - 220 * y:.1f}"

    ticks = (0, 0.25, 0.5, 0.75, 1) if most == 1 else (0, 1, 2, 4, 8, 16)
    marks = [f'<text x="{point(t, 0).split(",")[0]}" y="266" text-anchor="middle">{t:g}</text>' for t in ticks]
    marks += [f'<text x="34" y="{254 - 220 * t:.0f}" text-anchor="end">{t:g}</text>' for t in (0, 0.5, 1)]
    grid = [f'<path class=grid d="M{point(t, 0)} L{point(t, 1)}"/>' for t in ticks]
    grid += [f'<path class=grid d="M{point(0, t)} L{point(most, t)}"/>' for t in (0, 0.5, 1)]
    lines, legend = [], []
    for index, (name, (x, y)) in enumerate(curves.items()):
        colour = COLOURS[index % len(COLOURS)]
        places = " ".join(point(a, b) for a, b in zip(x, y, strict=True))
        lines.append(f'<polyline points="{places}" stroke="{colour}"/>')
        legend.append(f'<tspan x="46" dy="15" fill="{colour}">{escape(name)}</tspan>')
    words = (
        f'<text x="190" y="16" text-anchor="middle" class=title>{escape(title)}</text>'
        f'<text x="190" y="284" text-anchor="middle">{across}</text>'
        f'<text x="12" y="140" text-anchor="middle" transform="rotate(-90 12 140)">{up}</text>'
        f'<text y="284" class=legend>{"".join(legend)}</text>'
    )
    size = 292 + 15 * len(curves)
    return f'<svg viewBox="0 0 350 {size}" role=img>{"".join([*grid, *lines, *marks])}{words}</svg>'


_STYLE = """
h1 { font-size: 24px } h2 { font-size: 20px; margin-top: 36px } h3 { font-size: 16px; margin: 24px 0 8px }
h2 span { font-weight: 400; font-size: 15px; color: var(--soft); margin-left: .4em }
.soft, figcaption { color: var(--soft); font-size: 13px }
.warning { margin: 6px 0; padding: 7px 12px; background: #fff1b8; color: #4a3800; border-left: 4px solid #e0a800 }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: 13px }
th, td { text-align: left; padding: 4px 12px 4px 0; border-bottom: 1px solid var(--line); overflow-wrap: anywhere }
th { font-weight: 600; color: var(--soft) }
figure { margin: 0 0 14px } img { max-width: 100%; background: #000; border-radius: 4px; display: block }
details { margin: 6px 0 } summary { cursor: pointer }
.charts { display: grid; grid-template-columns: 1fr 1fr; gap: 24px; margin-top: 16px }
svg { width: 100%; font-size: 11px } svg text { fill: var(--ink) } .title { font-size: 13px; font-weight: 600 }
.grid { stroke: var(--line); fill: none } polyline { fill: none; stroke-width: 2 }
"""
