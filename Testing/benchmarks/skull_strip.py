"""The figures of the skull strip, measured anew.

    python Testing/benchmarks/skull_strip.py [--labelmaps DIR] [--heads DIR --brains DIR] [--draw SCAN ...]
                                             [--time SCAN] [--out DIR] [--registration]

`--labelmaps` is the folder of SynthSeg's 20 label maps; 18-20, which no model has seen, make the synthetic heads.
`--heads` and `--brains` hold real heads and the same scans stripped, paired by the first part of their names.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import permutations, product
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from registration import registered_brain
from scipy import ndimage

from DISYRECore.errors import DisyreError
from DISYRECore.evaluation.metrics import dice
from DISYRECore.io.read import read_volume
from DISYRECore.io.volume import Volume, crop_box, resample, to_canonical
from DISYRECore.preprocessing.brain_mask import RIM_MM, extract_brain, stripped_mask
from DISYRECore.preprocessing.skull_strip import load_skull_strip
from DISYRECore.synthesis.anatomy import load_anatomies
from DISYRECore.training.tasks import skull_strip as training
from DISYRECore.training.tasks.skull_strip import HEAD_MM, SyntheticHeads

HELD_OUT = ("training_seg_18.nii.gz", "training_seg_19.nii.gz", "training_seg_20.nii.gz")
HEADS, SEED = 12, 7_000
PANEL, BORDER = 320, (0, 255, 255)
Finder = Callable[[Volume], np.ndarray]


def by_network(scan: Volume) -> np.ndarray:
    """The mask of the bundled model; an empty one where it is sure that there is no brain."""
    try:
        return extract_brain(scan).mask
    except DisyreError:
        return np.zeros(scan.shape, bool)


def by_registration(scan: Volume) -> np.ndarray:
    """The mask of the registration baseline."""
    return registered_brain(scan, RIM_MM)


def synthetic_heads(labelmaps: Path, contrast: str) -> Iterator[tuple[Volume, np.ndarray]]:
    """Whole heads of unseen anatomies, cut to their field of view, with their brain and its rim."""
    spacing_mm = load_skull_strip()[1]
    training.NO_HEAD, training.PART = 0.0, 1.0
    bank = load_anatomies([labelmaps / name for name in HELD_OUT], HEAD_MM)
    maker = SyntheticHeads(bank, spacing_mm, (contrast,))
    affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    for index in range(HEADS):
        made = maker.make(1, SEED + index)
        seen = crop_box(made.seen[0].numpy().T, margin=0)
        head = Volume(np.ascontiguousarray(made.image[0].numpy().T[seen]), affine)
        yield head, made.depth_mm[0].numpy().T[seen] > -RIM_MM


def pairs(heads: Path, brains: Path) -> Iterator[tuple[str, Volume, np.ndarray]]:
    """Real heads with the mask of their stripped twin, on the grid of the twin, which holds the whole brain."""
    for path in sorted(heads.glob("*.nii.gz")):
        name = path.name.split("_")[0].removesuffix(".nii.gz")
        twin = next(iter(brains.glob(f"{name}*")), None)
        if twin is not None:
            brain = to_canonical(read_volume(twin))
            head = to_canonical(read_volume(path))
            truth = resample(Volume(stripped_mask(brain), brain.affine), head.grid, order=0).voxels
            yield name, head, truth


def surface_distance_95(one: np.ndarray, other: np.ndarray, spacing_mm: tuple[float, ...]) -> float:
    """95th percentile of the distances between the surfaces of two masks, both ways, in mm."""
    surfaces = [mask & ~ndimage.binary_erosion(mask) for mask in (one, other)]
    if not all(surface.any() for surface in surfaces):
        return np.inf
    far = [ndimage.distance_transform_edt(~surface, sampling=spacing_mm) for surface in surfaces]
    return float(np.percentile(np.concatenate([far[1][surfaces[0]], far[0][surfaces[1]]]), 95))


def measure_synthetic(labelmaps: Path, find: Finder) -> None:
    """Dice coefficients by contrast."""
    for contrast in ("T1", "T2", "FLAIR", "free"):
        scores = [dice(find(head), truth) for head, truth in synthetic_heads(labelmaps, contrast)]
        print(f"  synthetic {contrast:5}: Dice mean {np.mean(scores):.3f}, worst {min(scores):.3f} of {len(scores)}")


def measure_real(heads: Path, brains: Path, find: Finder) -> None:
    """Dice coefficients and surface distances on real heads."""
    rows = []
    for name, head, truth in pairs(heads, brains):
        start = time.perf_counter()
        mask = find(head)
        seconds = time.perf_counter() - start
        rows.append((dice(mask, truth), surface_distance_95(mask, truth, head.spacing_mm), seconds))
        print(f"  {name}: Dice {rows[-1][0]:.3f}, 95 % distance {rows[-1][1]:.1f} mm, {seconds:.1f} s")
    scores, distances, seconds = np.array(rows).T
    print(
        f"  Dice mean {scores.mean():.3f}, worst {scores.min():.3f}; 95 % distance mean {distances.mean():.1f}, ",
        end="",
    )
    print(f"worst {distances.max():.1f} mm; {seconds.mean():.1f} s; {len(rows)} heads")


def measure_orientations(scan: Volume) -> None:
    """Least agreement of the masks of one head in the 48 orders of its axes."""
    first = extract_brain(scan).mask
    scores = []
    for axes, signs in product(permutations(range(3)), product((1, -1), repeat=3)):
        to_old = np.eye(4)[:, [*axes, 3]] * [*signs, 1]
        for old, sign in zip(axes, signs, strict=True):
            to_old[old, 3] = 0 if sign > 0 else scan.shape[old] - 1
        flips = [axis for axis in range(3) if signs[axis] < 0]
        turned = Volume(np.ascontiguousarray(np.flip(scan.voxels.transpose(axes), flips)), scan.affine @ to_old)
        back = np.flip(extract_brain(turned).mask, flips).transpose(np.argsort(axes))
        scores.append(dice(back, first))
    print(f"48 orientations: Dice at least {min(scores):.5f}")


def measure_time(scan: Path) -> None:
    """Wall time of the whole command, the best of three."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "DISYRECore", "skull-strip", str(scan), "-o", f"{folder}/mask.nii.gz"]
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            seconds.append(time.perf_counter() - start)
    print(f"disyre skull-strip {scan.name}: {min(seconds):.1f} s ({torch.get_num_threads()} threads)")


def draw(scans: list[Path], out: Path) -> None:
    """Three slices of each scan with the border of its mask."""
    rows = []
    for path in scans:
        scan = to_canonical(read_volume(path))
        found = extract_brain(scan)
        print(f"{path.name}: {found.volume_ml:.0f} mL, agreement {found.agreement}, {found.flags}")
        rows.append(np.concatenate([_panel(scan, found.mask, axis) for axis in (2, 0, 1)], axis=1))
    out.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows)).save(out / "skull-strip.png")


def _panel(scan: Volume, mask: np.ndarray, axis: int) -> np.ndarray:
    """A slice through the middle of the mask, `PANEL` pixels square, with the border of the mask."""
    index = int(np.argwhere(mask).mean(axis=0)[axis])
    across, up = (n * mm for a, (n, mm) in enumerate(zip(scan.shape, scan.spacing_mm, strict=True)) if a != axis)
    size = (round(PANEL * across / max(across, up)), round(PANEL * up / max(across, up)))
    cut, inside = (np.take(voxels, index, axis).T[::-1] for voxels in (scan.voxels, mask))
    grey = (255 * np.clip(cut / max(np.percentile(cut, 99.5), 1e-6), 0, 1)).astype(np.uint8)
    grey, inside = (np.asarray(Image.fromarray(one).resize(size)) for one in (grey, inside.astype(np.uint8) * 255))
    picture = np.repeat(grey[..., None], 3, axis=2)
    picture[(inside > 127) & ~ndimage.binary_erosion(inside > 127)] = BORDER
    room = [((PANEL - n) // 2, PANEL - n - (PANEL - n) // 2) for n in picture.shape[:2]]
    return np.pad(picture, (*room, (0, 0)))


def main() -> None:
    """Measures what the options name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("labelmaps", "heads", "brains", "time"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--draw", type=Path, nargs="+", default=[])
    parser.add_argument("--out", type=Path, default=Path("runs/skull-strip"))
    parser.add_argument("--registration", action="store_true", help="measure the registration baseline too")
    options = parser.parse_args()
    finders = {"network": by_network} | ({"registration": by_registration} if options.registration else {})
    for name, find in finders.items():
        print(name)
        if options.labelmaps:
            measure_synthetic(options.labelmaps, find)
        if options.heads and options.brains:
            measure_real(options.heads, options.brains, find)
    if options.time:
        measure_time(options.time)
        measure_orientations(read_volume(options.time))
    if options.draw:
        draw(options.draw, options.out)


if __name__ == "__main__":
    main()
