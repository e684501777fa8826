"""The report of one scan: a single HTML file that needs nothing but a browser and sends nothing anywhere.

Each slice is an SVG in voxel units, stretched to millimetres: the scan as a grey PNG, on it the score as a
PNG that is transparent below the border, on that the findings as outlines along voxel borders.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from DISYRECore.detection.findings import Finding
from DISYRECore.io.files import write_text
from DISYRECore.io.volume import Box, Volume, crop, crop_box, to_canonical
from DISYRECore.reports.html import html_page, html_table

DISCLAIMER = "Research use only. Not a medical device."
CAVEAT = "This does not rule out disease."
MOST_PICTURED = 10
MOST_LISTED = 100
MOST_VALUES = 12
OVERVIEW_SLICES = 15
OVERVIEW_PIXELS = 160
SLICE_PIXELS = 240
MARGIN_MM = 6.0
SCALE_BAR_MM = 50
HEAT_STOPS = ((110, 0, 0), (190, 20, 0), (245, 110, 10), (255, 200, 60), (255, 250, 205))
HEAT_OPACITY = 0.72
PLANES = (("Sagittal", "AP"), ("Coronal", "RL"), ("Axial", "RL"))  # by the axis they are cut across
AXIAL = 2


@dataclass(frozen=True)
class _Scene:
    """What there is to draw: (X, Y, Z) arrays in RAS order, cropped to the brain.

    Attributes:
        image: The scan as grey values 0..255.
        restored: The restored image in the same window.
        heat: 0 below the border, then 1..255 up to the score scale.
        labels: Number of the finding, 0 where there is none.
        affine: (4, 4), voxel index to RAS mm.
        spacing_mm: Along X, Y, Z.
        frames: Whether Z counts frames, which have no sides, rather than millimetres.
    """

    image: np.ndarray
    restored: np.ndarray | None
    heat: np.ndarray
    labels: np.ndarray
    affine: np.ndarray
    spacing_mm: tuple[float, float, float]
    frames: bool = False


@dataclass(frozen=True)
class _Slice:
    """One slice of a scene as (rows, columns): head or front up, the patient's right or front on the left."""

    image: np.ndarray
    restored: np.ndarray | None
    heat: np.ndarray
    labels: np.ndarray
    width_mm: float
    height_mm: float
    letters: str


def write_report(
    path: Path | str,
    *,
    title: str,
    image: Volume,
    score: Volume,
    restored: Volume | None,
    brain_mask: np.ndarray,
    labels: np.ndarray,
    findings: Sequence[Finding],
    border: float,
    score_scale: float,
    settings: Mapping[str, Any],
    quality: Sequence[str] = (),
    frames: bool = False,
) -> None:
    """Writes the report of one scan as one self-contained HTML file.

    Args:
        path: The .html file.
        title: Heading, such as the scan's file name; no other name gets into the report.
        image: The scan, of any orientation and spacing; shown from percentile 1 to 99 of the brain.
        score: Anomaly score on the grid of `image`.
        restored: Restored image on the same grid, in the intensities of `image`; None if there is none.
        brain_mask: (X, Y, Z) on the same grid, true (non-zero) in the brain.
        labels: (X, Y, Z) label image of the findings on the same grid.
        findings: What `labels` holds; the first ten are pictured.
        border: Score above which findings are drawn.
        score_scale: The score that is drawn in the brightest colour, in the same units.
        settings: Names and values to list under "Settings".
        quality: Sentences to show as warnings.
        frames: Whether the third axis of `image` counts frames of a clip.

    Raises:
        DisyreError: The brain mask is empty, or the file cannot be written.
    """
    scene = replace(_scene(image, score, restored, brain_mask, labels, border, score_scale), frames=frames)
    body = [
        _header(title, _summary(findings, specks=bool(scene.heat.any())), quality),
        _overview(scene, border, score_scale),
        *(_finding(scene, finding) for finding in findings[:MOST_PICTURED]),
        _findings_table(findings),
        _settings_table(settings),
    ]
    write_text(html_page(title, _STYLE, body), path)


def write_thumbnail(
    path: Path,
    *,
    image: Volume,
    score: Volume,
    brain_mask: np.ndarray,
    labels: np.ndarray,
    findings: Sequence[Finding],
    border: float,
) -> None:
    """Writes a small PNG: the axial slice through the first finding, or the middle one; arguments as `write_report`."""
    scene = _scene(image, score, None, brain_mask, labels, border, 1.0)
    index = _voxel_at(scene, findings[0].peak_ras)[AXIAL] if findings else scene.image.shape[AXIAL] // 2
    cut = _slice(scene, AXIAL, index)
    picture = Image.fromarray(np.ascontiguousarray(cut.image)).convert("RGBA")
    picture.alpha_composite(Image.fromarray(np.ascontiguousarray(_HEAT_COLOURS[cut.heat])))
    scale = OVERVIEW_PIXELS / max(cut.width_mm, cut.height_mm)
    size = max(round(cut.width_mm * scale), 1), max(round(cut.height_mm * scale), 1)
    picture.convert("RGB").resize(size).save(path, "PNG")


# --- what there is to draw


def _scene(
    image: Volume,
    score: Volume,
    restored: Volume | None,
    brain_mask: np.ndarray,
    labels: np.ndarray,
    border: float,
    score_scale: float,
) -> _Scene:
    brain = to_canonical(replace(image, voxels=np.asarray(brain_mask, bool)))
    box = crop_box(brain.voxels, margin=round(MARGIN_MM / min(image.spacing_mm)))
    scan, inside = _cut(image, box), brain.voxels[box]
    low, high = np.percentile(scan.voxels[inside], (1, 99))
    return _Scene(
        image=_to_grey(scan.voxels, low, high),
        restored=None if restored is None else _to_grey(_cut(restored, box).voxels, low, high),
        heat=_to_heat(_cut(score, box).voxels, inside, border, score_scale),
        labels=_cut(replace(image, voxels=labels), box).voxels,
        affine=scan.affine,
        spacing_mm=scan.spacing_mm,
    )


def _cut(volume: Volume, box: Box) -> Volume:
    return crop(to_canonical(volume), box)


def _to_grey(voxels: np.ndarray, low: float, high: float) -> np.ndarray:
    return (np.clip((voxels - low) / max(high - low, 1e-9), 0, 1) * 255).astype(np.uint8)


def _to_heat(score: np.ndarray, brain: np.ndarray, border: float, score_scale: float) -> np.ndarray:
    level = np.clip((score - border) / max(score_scale - border, 1e-9), 0, 1)
    return np.where(brain & (score > border), 1 + 254 * level, 0).astype(np.uint8)


def _slice(scene: _Scene, axis: int, index: int) -> _Slice:
    def plane(voxels: np.ndarray) -> np.ndarray:
        return np.take(voxels, index, axis=axis)[::-1, ::-1].T

    width_mm, height_mm = _extent_mm(scene, axis)
    restored = None if scene.restored is None else plane(scene.restored)
    layers = plane(scene.image), restored, plane(scene.heat), plane(scene.labels)
    return _Slice(*layers, width_mm, height_mm, "" if scene.frames else PLANES[axis][1])


def _extent_mm(scene: _Scene, axis: int) -> tuple[float, float]:
    """Width and height of the slices across an axis."""
    across, up = (other for other in range(3) if other != axis)
    size_mm = np.multiply(scene.image.shape, scene.spacing_mm)
    return float(size_mm[across]), float(size_mm[up])


def _voxel_at(scene: _Scene, place_ras: tuple[float, float, float]) -> tuple[int, ...]:
    index = np.linalg.solve(scene.affine, (*place_ras, 1.0))[:3].round().astype(int)
    return tuple(np.clip(index, 0, np.array(scene.image.shape) - 1).tolist())


# --- one slice


def _panel(cut: _Slice, layers: Sequence[str], text: str, extra: str = "") -> str:
    """Layers in voxel units, stretched to millimetres; `extra` lies on top of them."""
    rows, columns = cut.image.shape
    size = f"--mm:{cut.width_mm:.1f};aspect-ratio:{cut.width_mm:.1f}/{cut.height_mm:.1f}"
    sides = "".join(f"<b>{letter}</b>" for letter in cut.letters)
    return (
        f'<div class=panel style="{size}"><svg viewBox="0 0 {columns} {rows}" preserveAspectRatio=none '
        f'role=img aria-label="{escape(text)}">{"".join(layers)}</svg>{sides}{extra}</div>'
    )


def _heat_layers(cut: _Slice, most_pixels: int) -> list[str]:
    """The score as colours and the outline of the findings."""
    if not cut.heat.any():
        return []
    heat = _image_layer(_HEAT_COLOURS[cut.heat], most_pixels)
    return [heat, f'<path d="{_outline(cut.labels > 0)}"/>']


def _image_layer(pixels: np.ndarray, most_pixels: int, name: str = "") -> str:
    """Grey (rows, columns) or RGBA (rows, columns, 4) pixels, made coarser than voxels only beyond a size."""
    rows, columns = pixels.shape[:2]
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    picture.thumbnail((most_pixels, most_pixels))
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    data = base64.b64encode(stream.getvalue()).decode()
    identity = f"id={name} " if name else ""
    size = f"width={columns} height={rows} preserveAspectRatio=none"
    return f'<image {identity}{size} href="data:image/png;base64,{data}"/>'


def _heat_colours() -> np.ndarray:
    """RGBA of the 256 levels, uint8; level 0 is transparent."""
    stops = np.linspace(1, 255, len(HEAT_STOPS))
    opaque = [np.interp(np.arange(256), stops, channel) for channel in zip(*HEAT_STOPS, strict=True)]
    colours = np.stack([*opaque, np.full(256, 255 * HEAT_OPACITY)], axis=1).round().astype(np.uint8)
    colours[0] = 0
    return colours


def _outline(mask: np.ndarray) -> str:
    """SVG path along the voxel borders of a mask."""
    padded = np.pad(mask, 1)
    upright = _runs((padded[1:-1, 1:] != padded[1:-1, :-1]).T)
    level = _runs(padded[1:, 1:-1] != padded[:-1, 1:-1])
    return "".join([f"M{x} {y}v{n}" for x, y, n in upright] + [f"M{x} {y}h{n}" for y, x, n in level])


def _runs(edges: np.ndarray) -> list[list[int]]:
    """Row, first column and length of each run of true values along the rows."""
    steps = np.diff(edges.astype(np.int8), axis=1, prepend=0, append=0)
    starts, ends = np.argwhere(steps == 1), np.argwhere(steps == -1)
    return np.column_stack([starts, ends[:, 1] - starts[:, 1]]).tolist()


# --- the sections


def _header(title: str, summary: str, quality: Sequence[str]) -> str:
    warnings = "".join(f"<p class=warning>{escape(sentence)}</p>" for sentence in quality)
    heading = f"<p class=disclaimer>{DISCLAIMER}</p><h1>Anomaly report <span>{escape(title)}</span></h1>"
    return f"<header>{heading}<p class=summary>{escape(summary)}</p>{warnings}</header>"


def _summary(findings: Sequence[Finding], specks: bool) -> str:
    if not findings:
        size = " Some voxels are above the border, but in no finding that is unusual or large enough." if specks else ""
        return f"Nothing unusual found.{size} {CAVEAT}"
    count = "1 finding" if len(findings) == 1 else f"{len(findings)} findings"
    first = ", ".join(filter(None, (_volume(findings[0].volume_ml), findings[0].side, findings[0].rarity)))
    return f"{count}{';' if len(findings) == 1 else '; the first:'} {first}."


def _overview(scene: _Scene, border: float, score_scale: float) -> str:
    depth = scene.image.shape[AXIAL]
    places = np.unique(np.linspace(0, depth - 1, OVERVIEW_SLICES + 2).round().astype(int)[1:-1])
    panels = "".join(_overview_panel(_slice(scene, AXIAL, int(index))) for index in places)
    gap_mm = depth * scene.spacing_mm[AXIAL] / (len(places) + 1)
    where = (
        f"Axial slices about {gap_mm:.0f} mm apart, from bottom to top. Radiological convention: the patient's left "
        "(L) is on the right."
    )
    note = (
        f"{'Frames of the clip in their order.' if scene.frames else where} Colour: anomaly score above the border. "
        "Cyan: findings; what is coloured without an outline is too small to be one."
    )
    return (
        f"<section><h2>Overview</h2><div class=overview>{panels}</div><p class=legend>"
        f"{border:.3g}<i></i>{score_scale:.3g} or more</p><p class=note>{note}</p></section>"
    )


def _overview_panel(cut: _Slice) -> str:
    layers = [_image_layer(cut.image, OVERVIEW_PIXELS), *_heat_layers(cut, OVERVIEW_PIXELS)]
    return _panel(cut, layers, "Axial slice with anomaly score", _numbers(cut))


def _numbers(cut: _Slice) -> str:
    """The numbers of the pictured findings beside their outlines."""
    rows, columns = cut.labels.shape
    boxes = ndimage.find_objects(cut.labels, MOST_PICTURED)
    places = [(n, box[1].stop / columns, box[0].start / rows) for n, box in enumerate(boxes, start=1) if box]
    return "".join(f'<em style="left:{x:.1%};top:{y:.1%}">{number}</em>' for number, x, y in places)


def _finding(scene: _Scene, finding: Finding) -> str:
    voxel = _voxel_at(scene, finding.peak_ras)
    axes = (AXIAL,) if scene.frames else (2, 1, 0)
    rows = "".join(_finding_row(scene, finding, axis, voxel[axis]) for axis in axes)
    heads = ["Score on scan", "Scan", "Restored towards healthy"][: 2 if scene.restored is None else 3]
    shown = f"shown by {', '.join(finding.contrasts)}" if finding.contrasts else ""
    facts = " · ".join(filter(None, (finding.side, _volume(finding.volume_ml), finding.rarity, shown)))
    return (
        f"<section class=finding><h2>Finding {finding.label} <span>{facts}</span></h2>"
        f'<div class=planes style="--columns:{len(heads)};--widest:{_widest_mm(scene):.1f}">'
        f"{''.join(f'<p>{head}</p>' for head in heads)}{rows}</div></section>"
    )


def _finding_row(scene: _Scene, finding: Finding, axis: int, index: int) -> str:
    cut = _slice(scene, axis, index)
    text = f"{PLANES[axis][0]}, {'RAS'[axis]} {_mm(finding.peak_ras[axis])} mm"
    text = f"Frame {index + 1}" if scene.frames else text
    name = f"finding-{finding.label}-{axis}"
    layers = [_image_layer(cut.image, SLICE_PIXELS, name), *_heat_layers(cut, SLICE_PIXELS)]
    bar = "" if scene.frames else f'<u style="width:{SCALE_BAR_MM / cut.width_mm:.1%}">{SCALE_BAR_MM} mm</u>'
    panels = [
        _panel(cut, layers, f"{text}, score on scan", bar),
        _panel(cut, [f'<use href="#{name}"/>'], f"{text}, scan"),
    ]
    if cut.restored is not None:
        panels.append(_panel(cut, [_image_layer(cut.restored, SLICE_PIXELS)], f"{text}, restored"))
    return f"<div><s>{text}</s>" + "</div><div>".join(panels) + "</div>"


def _widest_mm(scene: _Scene) -> float:
    return max(_extent_mm(scene, axis)[0] for axis in range(3))


def _findings_table(findings: Sequence[Finding]) -> str:
    if not findings:
        return ""
    heads = ("Finding", "Side", "Volume", "Longest", "How unusual", "Shown by", "Peak score", "Centre, RAS (mm)")
    rows = [
        (
            f"{one.label}",
            one.side,
            _volume(one.volume_ml),
            f"{one.diameter_mm:.0f} mm",
            one.rarity or "not calibrated",
            ", ".join(one.contrasts),
            f"{one.peak:.3g}",
            _place(one),
        )
        for one in findings[:MOST_LISTED]
    ]
    return f"<section><h2>Findings</h2>{html_table(rows, heads)}{_left_out(len(findings))}</section>"


def _left_out(count: int) -> str:
    if count <= MOST_PICTURED:
        return ""
    listed = f" and the first {MOST_LISTED} listed" if count > MOST_LISTED else ""
    return f"<p class=note>The first {MOST_PICTURED} of {count} findings are pictured{listed}.</p>"


def _settings_table(settings: Mapping[str, Any]) -> str:
    def show(value: Any) -> str:
        if isinstance(value, list) and len(value) > MOST_VALUES:
            return f"{len(value)} values, in run.json"
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    rows = [(name, show(value)) for name, value in settings.items()]
    return f"<details><summary>Settings</summary>{html_table(rows)}</details>"


def _volume(volume_ml: float) -> str:
    return f"{volume_ml:.1f} mL" if volume_ml >= 0.995 else f"{volume_ml:.2f} mL"


def _place(finding: Finding) -> str:
    return ", ".join(_mm(coordinate) for coordinate in finding.centroid_ras)


def _mm(coordinate: float) -> str:
    return f"{round(coordinate)}".replace("-", "−")


_HEAT_COLOURS = _heat_colours()

_STYLE = """
@media print { :root { --paper: #fff; --ink: #000; --soft: #444; --line: #bbb } }
* { box-sizing: border-box; print-color-adjust: exact; -webkit-print-color-adjust: exact }
h1, h2 { font-weight: 600; line-height: 1.25 }
h1 { font-size: 24px; margin: 4px 0 12px; overflow-wrap: anywhere }
h2 { font-size: 18px; margin: 32px 0 10px }
h1 span, h2 span { font-weight: 400; color: var(--soft); margin-left: .4em }
.disclaimer { margin: 0; color: var(--soft); font-size: 13px; letter-spacing: .02em }
.summary { font-size: 18px; margin: 0 0 14px }
.warning { margin: 6px 0; padding: 7px 12px; background: #fff1b8; color: #4a3800;
  border-left: 4px solid #e0a800 }
.note { color: var(--soft); font-size: 13px; margin: 6px 0 }
.overview, .planes > div { background: #000 }
.overview { display: grid; grid-template-columns: repeat(5, 1fr); gap: 2px; padding: 6px; border-radius: 4px }
.planes { display: grid; grid-template-columns: repeat(var(--columns), 1fr); gap: 4px }
.planes > p { margin: 0; font-size: 13px; color: var(--soft) }
.planes > div { position: relative; padding: 6px; border-radius: 4px }
.planes .panel { width: calc(100% * var(--mm) / var(--widest)); margin: 0 auto }
.panel { position: relative }
.panel, .planes s { color: #d5dbe0; font-size: 11px; line-height: 1; text-shadow: 0 0 2px #000, 0 0 2px #000 }
.panel svg { position: absolute; inset: 0; width: 100%; height: 100%; display: block }
.panel path { fill: none; stroke: #00e5ff; stroke-width: 1.5px; stroke-linecap: square;
  vector-effect: non-scaling-stroke }
.panel > * { position: absolute; font-weight: 400; font-style: normal; text-decoration: none }
.panel b { top: 50%; left: 1px } .panel b + b { left: auto; right: 1px }
.planes s { position: absolute; z-index: 1; top: 6px; left: 6px; text-decoration: none }
.panel u { bottom: 1px; right: 1px; padding-top: 3px; border-top: 2px solid; text-align: center }
.panel em { color: #00e5ff; margin: -6px 0 0 2px; font-size: 12px; font-weight: 600;
  text-shadow: 0 0 3px #000, 0 0 3px #000, 0 0 3px #000 }
.overview path { stroke-width: 1px }
.overview .panel:not(:nth-child(5n + 1)) b:first-of-type,
.overview .panel:not(:nth-child(5n)) b:last-of-type { display: none }
.legend { display: flex; align-items: center; gap: 8px; font-size: 13px; margin: 8px 0 }
.legend i { width: 160px; height: 12px; border-radius: 2px; background: linear-gradient(90deg, HEAT) }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: 5px 12px 5px 0; border-bottom: 1px solid var(--line);
  overflow-wrap: anywhere }
th { font-weight: 600; font-size: 13px; color: var(--soft) }
details { margin: 32px 0 } summary { font-size: 18px; font-weight: 600; cursor: pointer; margin-bottom: 10px }
@media print {
  body { max-width: none; padding: 0 }
  .finding, .planes > div, tr { break-inside: avoid }
  h2 { break-after: avoid }
  details::details-content { content-visibility: visible; block-size: auto }
}
""".replace("HEAT", ", ".join(f"rgb{stop}" for stop in HEAT_STOPS))
