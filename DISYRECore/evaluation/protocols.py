"""Published evaluation protocols, for tables that are to be compared with printed ones.

The exact figures of `evaluation` are always there; a protocol stands beside them. Each is a function from scored
cases, of which one at a time is in memory, to named figures. Known traps of each are in its description.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from scipy import ndimage

from DISYRECore.evaluation.metrics import average_precision
from DISYRECore.evaluation.streaming import CachedPrediction, SortedScores, pooled_curve, reaching

Protocol = Callable[[Sequence[CachedPrediction]], dict[str, float]]

DISYRE_VOXELS, DISYRE_THRESHOLDS = 10_000, 200
ANOFPDM_BATCH, ANOFPDM_SMOOTHING = 50, 1e-6
UPD_SLICES, UPD_PIXELS, UPD_THRESHOLDS, UPD_LESION = (15, 135), 128, 100, 0.4


def disyre(cases: Sequence[CachedPrediction]) -> dict[str, float]:
    """The released code of DISYRE (Naval Marimont et al. 2024).

    10,000 voxels of each volume, drawn with replacement from the bounding box of the brain, background included at
    score 0; average precision over all of them, and the best Dice over 200 thresholds between the lowest score and 1,
    the highest label (so scores have to lie in 0 to 1 for the grid to be fine enough). The draws are seeded.
    """
    rng = np.random.default_rng(0)
    drawn = [_draw(case, rng) for case in cases]
    scores, labels = (np.concatenate(part) for part in zip(*drawn, strict=True))
    grid = np.linspace(scores.min(), 1.0, DISYRE_THRESHOLDS)
    return {"ap": average_precision(scores, labels), "dice": _best_of_grid(scores, labels, grid)}


def _draw(case: CachedPrediction, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    score, truth, brain = case.volumes()
    box = ndimage.find_objects(brain.astype(np.uint8))[0]
    chosen = rng.integers(score[box].size, size=DISYRE_VOXELS)
    return score[box].ravel()[chosen], truth[box].ravel()[chosen]


def _best_of_grid(scores: np.ndarray, labels: np.ndarray, thresholds: np.ndarray) -> float:
    lesion, everything = np.sort(scores[labels]), np.sort(scores)
    if not lesion.size:
        return float("nan")
    true, predicted = (v.size - np.searchsorted(v, thresholds, "right") for v in (lesion, everything))
    return float((2 * true / (predicted + lesion.size)).max())


def anofpdm(cases: Sequence[CachedPrediction]) -> dict[str, float]:
    """AnoFPDM (Che et al. 2025): means over axial slices, of all (mixed) and of those with a lesion (unhealthy).

    Dice and IoU at each method's own threshold, with 1e-6 added above and below, so that an empty prediction in an
    empty slice counts 1: predicting nothing scores the share of healthy slices. Average precision over the brain
    pixels of batches of 50 slices in a seeded random order, batches weighted by their slices. Slices are those that
    hold brain, from volumes as the dataset gives them; the published numbers are from 128 x 128 pixels.
    """
    slices = [(number, z) for number, case in enumerate(cases) for z in _brain_slices(case)]
    order = [slices[i] for i in np.random.default_rng(0).permutation(len(slices))]
    overlaps = np.concatenate([_slice_overlaps(case) for case in cases])
    sick = overlaps[:, 2] > 0
    figures = {f"mixed_{n}": float(v) for n, v in zip(("dice", "iou"), overlaps[:, :2].mean(0), strict=True)}
    figures["mixed_ap"] = _batched_ap(cases, order)
    chosen = {slices[i] for i in np.flatnonzero(sick)}
    if not chosen:
        return figures
    unhealthy = overlaps[sick, :2].mean(0)
    figures |= {f"unhealthy_{n}": float(v) for n, v in zip(("dice", "iou"), unhealthy, strict=True)}
    return figures | {"unhealthy_ap": _batched_ap(cases, [one for one in order if one in chosen])}


def _brain_slices(case: CachedPrediction) -> list[int]:
    _, _, brain = case.volumes()
    return np.flatnonzero(brain.any(axis=(0, 1))).tolist()


def _slice_overlaps(case: CachedPrediction) -> np.ndarray:
    """Dice, IoU and number of lesion pixels of the slices that hold brain, (slices, 3)."""
    score, truth, brain = case.volumes()
    found = score > case.threshold
    both, either = (m.sum(axis=(0, 1)) for m in (found & truth, found | truth))
    iou = (both + ANOFPDM_SMOOTHING) / (either + ANOFPDM_SMOOTHING)
    dice = (2 * both + ANOFPDM_SMOOTHING) / (both + either + ANOFPDM_SMOOTHING)
    return np.stack([dice, iou, truth.sum(axis=(0, 1))], axis=1)[brain.any(axis=(0, 1))]


def _batched_ap(cases: Sequence[CachedPrediction], order: list[tuple[int, int]]) -> float:
    """Average precision of batches of slices, weighted by their slices; batches without a lesion left out."""
    batch_of = {one: index // ANOFPDM_BATCH for index, one in enumerate(order)}
    count = -(-len(order) // ANOFPDM_BATCH)
    with TemporaryDirectory(dir=cases[0].path.parent) as folder:
        _deal(cases, batch_of, Path(folder))
        areas = [_batch_ap(Path(folder) / f"{index}.bin") for index in range(count)]
    sizes = np.array([min(ANOFPDM_BATCH, len(order) - ANOFPDM_BATCH * index) for index in range(count)])
    known = ~np.isnan(areas)
    return float(np.average(np.array(areas)[known], weights=sizes[known])) if known.any() else float("nan")


_PIXEL = np.dtype([("score", "<f4"), ("label", "?")])


def _deal(cases: Sequence[CachedPrediction], batch_of: dict[tuple[int, int], int], folder: Path) -> None:
    """Appends the brain pixels of every slice to the file of its batch."""
    for number, case in enumerate(cases):
        score, truth, brain = case.volumes()
        for z in range(brain.shape[2]):
            if (number, z) in batch_of:
                inside = brain[..., z]
                pixels = np.empty(int(inside.sum()), _PIXEL)
                pixels["score"], pixels["label"] = score[..., z][inside], truth[..., z][inside]
                with (folder / f"{batch_of[number, z]}.bin").open("ab") as file:
                    file.write(pixels.tobytes())


def _batch_ap(path: Path) -> float:
    pixels = np.fromfile(path, _PIXEL)
    return average_precision(pixels["score"], pixels["label"])


def upd(cases: Sequence[CachedPrediction]) -> dict[str, float]:
    """The UPD study (Lagogiannis et al. 2023): all pixels of the test slices pooled, background included.

    Axial slices 15 to 134 (of volumes with fewer slices, all), cut to the central square, resized to 128 x 128
    (linear; lesion where the resized mask exceeds .4); average precision over all pixels and the best Dice over 100
    thresholds between the lowest and the highest score. The study registers to a template of 1 mm first; here the
    volumes are taken as the dataset gives them.
    """
    with TemporaryDirectory(dir=cases[0].path.parent) as folder:
        store = SortedScores(Path(folder))
        for case in cases:
            store.add(*_upd_pixels(case))
        ordered = store.cases()
        parts = [part for one in ordered for part in one if part.size]
        grid = np.linspace(min(p[0] for p in parts), max(p[-1] for p in parts), UPD_THRESHOLDS, dtype=np.float32)
        true, false = (reaching(ordered, grid, kind) for kind in ("positives", "negatives"))
        lesion = sum(one.positives.size for one in ordered)
        best = float((2 * true / (true + false + lesion)).max()) if lesion else float("nan")
        return {"ap": pooled_curve(ordered).ap, "dice": best}


def _upd_pixels(case: CachedPrediction) -> tuple[np.ndarray, np.ndarray]:
    score, truth, _ = case.volumes()
    first, last = UPD_SLICES if score.shape[2] >= UPD_SLICES[1] else (0, score.shape[2])
    score, truth = _square(score[..., first:last]), _square(truth[..., first:last].astype(np.float32))
    zoom = (UPD_PIXELS / score.shape[0], UPD_PIXELS / score.shape[1], 1)
    resized, mask = (ndimage.zoom(values, zoom, order=1, grid_mode=True, mode="nearest") for values in (score, truth))
    return resized, mask > UPD_LESION


def _square(voxels: np.ndarray) -> np.ndarray:
    side = min(voxels.shape[:2])
    x, y = ((size - side) // 2 for size in voxels.shape[:2])
    return voxels[x : x + side, y : y + side]


PROTOCOLS: dict[str, Protocol] = {"disyre": disyre, "anofpdm": anofpdm, "upd": upd}
