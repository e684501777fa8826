"""Synthetic test sets: whole volumes with their truth, the same for the same seed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from DISYRECore.errors import DisyreError
from DISYRECore.io.files import check_writable
from DISYRECore.io.volume import Volume
from DISYRECore.io.write import write_volume
from DISYRECore.synthesis.anatomy import AnatomyBank, load_anatomies
from DISYRECore.synthesis.images import CONTRASTS, Lattice, draw_scan, render_scan
from DISYRECore.synthesis.intensity import expand
from DISYRECore.synthesis.lesions import KINDS, add_lesions, draw_lesions

SPACING_MM = 1.0
_BRAIN_MM, _HEAD_MM = (168, 200, 160), (236, 244, 220)


@dataclass(frozen=True)
class SyntheticCase:
    """One synthetic scan with its truth, volumes on one grid, axes R, A, S.

    Attributes:
        name: For files.
        contrast: One of `CONTRASTS`.
        kind: Kind of lesion, see `lesions.KINDS`.
        scan: Linear intensities; the median of the brain is about 450.
        truth: uint8 lesion mask.
        brain_mask: uint8.
    """

    name: str
    contrast: str
    kind: str
    scan: Volume
    truth: Volume
    brain_mask: Volume


def synthesise_case(
    bank: AnatomyBank,
    index: int,
    seed: int,
    *,
    contrast: str,
    kind: str,
    spacing_mm: float = SPACING_MM,
    head: bool = False,
) -> SyntheticCase:
    """Renders one volume and puts lesions of a kind into it.

    Args:
        bank: Anatomies to draw from.
        index: Number of the case; with the seed it fixes everything.
        seed: Of the test set.
        contrast: One of `CONTRASTS`.
        kind: One of `lesions.KINDS`.
        spacing_mm: Isotropic spacing of the volume.
        head: Whether to draw the whole head; load the anatomies with room for it then.
    """
    own = seed * 100_003 + index
    parameters = draw_scan(bank, 1, own, contrasts=(contrast,), reach_mm=(0.0, 0.0))
    z, y, x = (4 * round(extent / spacing_mm / 4) for extent in (_HEAD_MM if head else _BRAIN_MM))
    shape = (z, y, x)
    scan = render_scan(bank, parameters, Lattice(shape, spacing_mm), keep_head=head)
    image, truth = add_lesions(scan, bank.label_values, draw_lesions(kind, contrast, own), spacing_mm)
    affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    affine[:3, 3] = [-(n - 1) / 2 * spacing_mm for n in reversed(shape)]

    def volume(values: torch.Tensor, dtype: type) -> Volume:
        return Volume(np.ascontiguousarray(values.cpu().numpy().T.astype(dtype)), affine)

    return SyntheticCase(
        name=f"case-{index:03d}_{contrast}_{kind}",
        contrast=contrast,
        kind=kind,
        scan=volume(expand(image.clamp(max=0.99)) * 1000, np.float32),
        truth=volume(truth, np.uint8),
        brain_mask=volume(scan.mask[0], np.uint8),
    )


def synthesise_cases(
    bank: AnatomyBank,
    count: int,
    seed: int,
    contrasts: tuple[str, ...] = ("T1", "T2", "FLAIR"),
    kinds: tuple[str, ...] = KINDS,
    head: bool = False,
) -> Iterator[SyntheticCase]:
    """Cases that run through contrasts and kinds in turn."""
    for index in range(count):
        kind = kinds[index // len(contrasts) % len(kinds)]
        yield synthesise_case(bank, index, seed, contrast=contrasts[index % len(contrasts)], kind=kind, head=head)


def write_test_set(
    folder: Path,
    labelmaps: list[Path],
    count: int,
    seed: int,
    contrasts: tuple[str, ...] = ("T1", "T2", "FLAIR"),
    kinds: tuple[str, ...] = KINDS,
    head: bool = False,
) -> None:
    """Writes cases as folders with `scan.nii.gz`, `truth.nii.gz`, `brain_mask.nii.gz`, and an index `dataset.json`.

    Brains only, or whole heads where `head` is true.

    Raises:
        DisyreError: Unknown contrast or kind, no label maps, or an output that cannot be written.
    """
    for name, known in [*((c, CONTRASTS) for c in contrasts), *((k, KINDS) for k in kinds)]:
        if name not in known:
            raise DisyreError(f"'{name}' is not known; choose from {', '.join(known)}.")
    bank = load_anatomies(labelmaps, _HEAD_MM) if head else load_anatomies(labelmaps)
    check_writable(folder)
    cases = []
    for case in synthesise_cases(bank, count, seed, contrasts, kinds, head):
        place = folder / case.name
        check_writable(place)
        for name, volume in (("scan", case.scan), ("truth", case.truth), ("brain_mask", case.brain_mask)):
            write_volume(volume, place / f"{name}.nii.gz")
        cases.append({"name": case.name, "contrast": case.contrast, "kind": case.kind})
    index = {"seed": seed, "labelmaps": [path.name for path in labelmaps], "cases": cases}
    (folder / "dataset.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
