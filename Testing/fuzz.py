"""Damages valid scans at random, reads and prepares them, and counts what ends in anything but a result or a sentence.

``python Testing/fuzz.py [FILES] [SEED]``, or ``make fuzz``.
"""

from __future__ import annotations

import gzip
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from scipy import ndimage
from support import write_dicom, write_enhanced_dicom

from DISYRECore.errors import DisyreError
from DISYRECore.io.read import read_volume
from DISYRECore.io.volume import Volume
from DISYRECore.methods.z_score import SPEC
from DISYRECore.preprocessing.prepare import prepare

SHAPE, SPACING_MM = (30, 36, 28), 5.0
MOST_S, MOST_GB = 10.0, 4.0
HEADER_BYTES = 1500
VALUES = (b"\0", b"\xff", b"\x7f", b"\x80", b"-", b"9", b" ", b"\n")


def brain() -> Volume:
    """A stripped brain of two tissues and fluid in small."""
    points = (np.indices(SHAPE).T - (np.array(SHAPE) - 1) / 2).T * SPACING_MM
    depth = 1 - np.linalg.norm(points / np.array([65, 80, 60])[:, None, None, None], axis=0)
    image = np.select([depth > 0.75, depth > 0.35, depth > 0], [200.0, 850.0, 600.0])
    noise = np.random.default_rng(0).normal(0, 15, SHAPE)
    image = np.where(depth > 0, np.maximum(ndimage.gaussian_filter(image, 0.5) + noise, 1), 0)
    affine = np.diag([-SPACING_MM, SPACING_MM, SPACING_MM, 1.0])
    affine[:3, 3] = [70, -90, -60]
    return Volume(image.astype(np.uint16), affine)


def write_all(folder: Path) -> list[Path]:
    """The brain as NIfTI, NRRD, MetaImage, classic and enhanced DICOM."""
    volume = brain()
    image = nib.Nifti1Image(volume.voxels.astype(np.int16), volume.affine)
    itk = sitk.GetImageFromArray(np.ascontiguousarray(volume.voxels.T))
    itk.SetSpacing([SPACING_MM] * 3)
    nib.save(image, folder / "T1.nii")
    nib.save(image, folder / "T1.nii.gz")
    for name in ("T1.nrrd", "T1.mha"):
        sitk.WriteImage(itk, str(folder / name), useCompression=False)
        sitk.WriteImage(itk, str(folder / f"z_{name}"), useCompression=True)
    write_dicom(folder / "classic", volume)
    write_enhanced_dicom(folder / "enhanced", volume)
    return sorted(folder.iterdir())


def flip(data: bytearray, random: np.random.Generator, end: int) -> None:
    """Flips one to eight bits."""
    for position in random.integers(0, end, random.integers(1, 9)):
        data[position] ^= 1 << int(random.integers(8))


def overwrite(data: bytearray, random: np.random.Generator, end: int) -> None:
    """Writes one value over up to sixteen bytes."""
    start, count = int(random.integers(0, end)), int(random.integers(1, 17))
    data[start : start + count] = VALUES[random.integers(len(VALUES))] * len(data[start : start + count])


def cut(data: bytearray, random: np.random.Generator, end: int) -> None:
    """Removes the end."""
    del data[int(random.integers(0, len(data))) :]


def remove(data: bytearray, random: np.random.Generator, end: int) -> None:
    """Removes bytes within."""
    start = int(random.integers(0, end))
    del data[start : start + int(random.integers(1, 200))]


def repeat(data: bytearray, random: np.random.Generator, end: int) -> None:
    """Repeats bytes."""
    start = int(random.integers(0, end))
    data[start:start] = data[start : start + int(random.integers(1, 200))]


MUTATIONS: tuple[Callable[[bytearray, np.random.Generator, int], None], ...] = (flip, overwrite, cut, remove, repeat)


def damage(path: Path, target: Path, random: np.random.Generator) -> Path:
    """A damaged copy of a scan: of a folder, one file or all are damaged; most damage is done to headers."""
    if path.is_dir():
        shutil.copytree(path, target / path.name)
        files = sorted((target / path.name).iterdir())
        chosen = files if random.random() < 0.2 else [files[random.integers(len(files))]]
        for file in chosen:
            file.write_bytes(_damaged(file.read_bytes(), random))
    else:
        within = path.suffix == ".gz" and random.random() < 0.7
        data = gzip.decompress(path.read_bytes()) if within else path.read_bytes()
        changed = _damaged(data, random)
        (target / path.name).write_bytes(gzip.compress(changed, 1) if within else changed)
    return target / path.name


def _damaged(data: bytes, random: np.random.Generator) -> bytes:
    changed = bytearray(data)
    for _ in range(1 + int(random.random() < 0.3)):
        end = min(len(changed), HEADER_BYTES) if random.random() < 0.75 else len(changed)
        if end:
            MUTATIONS[random.integers(len(MUTATIONS))](changed, random, end)
    return bytes(changed)


def fuzz(count: int, seed: int) -> dict[str, list[str]]:
    """Damages, reads and prepares, with the z-score.

    Args:
        count: Number of files.
        seed: Of all that is random.

    Returns:
        Names of the outcomes, ``result``, ``refused`` or what is wrong, with the numbers and messages of the files.
    """
    outcomes: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        whole.mkdir()
        scans = write_all(whole)
        for number in range(count):
            target = Path(folder) / str(number)
            target.mkdir()
            random = np.random.default_rng([seed, number])
            path = damage(scans[number % len(scans)], target, random)
            kind, message = _outcome(path)
            outcomes.setdefault(kind, []).append(f"{number} {path.name}: {message}")
            shutil.rmtree(target)
    return outcomes


def _outcome(path: Path) -> tuple[str, str]:
    start, kind, message = time.process_time(), "result", ""
    try:
        brain = prepare(read_volume(path), SPACING_MM, contrast="T1")
        score = brain.to_native(SPEC.run(None, *brain.tensors()).score)
        if not np.isfinite(score.voxels).all():
            kind = "not finite"
    except DisyreError as error:
        kind, message = "refused", str(error)
    except Exception:
        kind, message = "internal error", traceback.format_exc()
    if time.process_time() - start > MOST_S:
        kind = "hang"
    if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20 > MOST_GB:
        kind = "memory"
    return kind, message


if __name__ == "__main__":
    files = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    chosen_seed = int(sys.argv[2]) if len(sys.argv) > 2 else int(time.time())
    print(f"seed {chosen_seed}")
    found = fuzz(files, chosen_seed)
    print({kind: len(cases) for kind, cases in found.items()})
    wrong = [case for kind, cases in found.items() if kind not in ("result", "refused") for case in cases]
    print("\n".join(wrong))
    sys.exit(bool(wrong))
