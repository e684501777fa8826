"""Pictures of what the bundled model gets wrong, for its card.

    disyre synthesize --patients --labelmaps LABELMAPS --maps '*_1[89].*' '*_20.*' --lesion-masks MASKS -o PATIENTS
    python Testing/benchmarks/failures.py PATIENTS -o Resources/Models/brain-restoration/failures.png

Of each contrast of a dataset the largest lesion that no finding touches and the largest finding that touches no lesion,
in axial scans: the scan with the lesions outlined in green, the score with the findings outlined in red, and the
restored image.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from DISYRECore.detection.detector import Detection, Detector
from DISYRECore.evaluation.datasets import Case, read_dataset

CONTRASTS = ("T1", "T2", "FLAIR")
TILE, CAPTION = 176, 18
GREEN, RED, HEAT = (60, 230, 60), (255, 60, 40), (255, 170, 30)


@dataclass(frozen=True)
class Failure:
    """A lesion that was missed, or a finding that is none.

    Attributes:
        contrast: Of the scan.
        missed: Whether it is a lesion that was missed.
        volume_ml: Of the lesion or finding.
        slices: Axial slices through its middle, (X, Y), by name; `scan`, `truth`, `score`, `labels`, `restored`.
        brightest: Of the brain, for the window.
    """

    contrast: str
    missed: bool
    volume_ml: float
    slices: dict[str, np.ndarray]
    brightest: float


def failures(detection: Detection, truth: np.ndarray, contrast: str) -> Iterator[Failure]:
    """The largest missed lesion and the largest false finding of a scan, where there are any."""
    found = detection.labels.voxels > 0
    for missed, these, those in ((True, truth, found), (False, found, truth)):
        parts, count = ndimage.label(these)
        alone = np.setdiff1d(np.arange(1, count + 1), parts[those])
        if not len(alone):
            continue
        sizes = np.bincount(parts.ravel())
        largest = alone[sizes[alone].argmax()]
        z = round(ndimage.center_of_mass(parts == largest)[2])
        volumes = {
            "scan": detection.scan.voxels,
            "truth": truth,
            "score": detection.score.voxels,
            "labels": found,
            "restored": detection.restored.voxels,
        }
        volume_ml = sizes[largest] * np.prod(detection.scan.spacing_mm) / 1000
        brightest = float(np.percentile(detection.scan.voxels[detection.brain_mask.voxels > 0], 99.5))
        yield Failure(contrast, missed, volume_ml, {n: v[:, :, z] for n, v in volumes.items()}, brightest)


def draw(failure: Failure) -> Image.Image:
    """Scan, score and restored image side by side, the patient's right on the left, with a caption."""
    s = failure.slices
    scan, restored = (_grey(s[name], failure.brightest) for name in ("scan", "restored"))
    heat = s["score"][..., None] * 0.8
    marked = _outlined((1 - heat) * scan + heat * np.array(HEAT), s["labels"], RED)
    panels = [_outlined(scan, s["truth"], GREEN), marked, restored]
    out = Image.new("RGB", (3 * TILE, TILE + CAPTION))
    for number, panel in enumerate(panels):
        out.paste(_upright(panel), (number * TILE, CAPTION))
    what = "lesion missed" if failure.missed else "false finding"
    ImageDraw.Draw(out).text((4, 3), f"{failure.contrast}: {what}, {failure.volume_ml:.1f} mL")
    return out


def _grey(values: np.ndarray, brightest: float) -> np.ndarray:
    return np.repeat(np.clip(values / brightest, 0, 1)[..., None] * 255, 3, axis=2)


def _outlined(image: np.ndarray, region: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    image = image.copy()
    image[ndimage.binary_dilation(region) & ~region] = colour
    return image


def _upright(panel: np.ndarray) -> Image.Image:
    """Axes R, A of a slice as a picture, front up, cut to its middle."""
    picture = Image.fromarray(panel[::-1, ::-1].transpose(1, 0, 2).astype(np.uint8))
    left, top = (picture.width - TILE) // 2, (picture.height - TILE) // 2
    return picture.crop((left, top, left + TILE, top + TILE))


def worst_failures(cases: Iterable[Case], detector: Detector) -> dict[tuple[str, bool], Failure]:
    """The largest failure of each contrast and kind; its second key says whether a lesion was missed."""
    worst: dict[tuple[str, bool], Failure] = {}
    for case in cases:
        scan, truth, brain = case.load()
        if np.abs(scan.affine[2, :3]).argmax() != 2:
            continue
        detection = detector.detect(scan, mask=brain, contrast=case.contrast)
        for failure in failures(detection, truth, case.contrast):
            key = (failure.contrast, failure.missed)
            if key not in worst or failure.volume_ml > worst[key].volume_ml:
                worst[key] = failure
    return worst


def main() -> None:
    """Draws the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--model", default="brain-restoration")
    options = parser.parse_args()
    worst = worst_failures(read_dataset(options.dataset).cases, Detector(options.model, device="cpu"))
    rows = [[draw(worst[key]) for key in ((c, True), (c, False)) if key in worst] for c in CONTRASTS]
    picture = Image.new("RGB", (6 * TILE + 8, len(rows) * (TILE + CAPTION)))
    for y, row in enumerate(rows):
        for x, tile in enumerate(row):
            picture.paste(tile, (x * (3 * TILE + 8), y * (TILE + CAPTION)))
    picture.save(options.output, optimize=True)


if __name__ == "__main__":
    main()
