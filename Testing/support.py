"""What several tests need: heads made of ellipsoids, tiny models, DICOM series, and where things are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import torch
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from torch import Generator, Tensor

from DISYRECore.corruption.blur import blur_volume
from DISYRECore.corruption.shapes import make_shape_bank
from DISYRECore.io.volume import Volume
from DISYRECore.models.description import DetectionSettings, ModelDescription
from DISYRECore.models.restoration_unet import NetworkSettings, RestorationNetwork
from DISYRECore.models.small_lesion_network import SmallLesionNetwork, SmallLesionSettings
from DISYRECore.models.store import save_model
from DISYRECore.training.config import TrainingConfig
from DISYRECore.training.tasks import anofpdm, synomaly
from DISYRECore.training.tasks.base import noise

ROOT = Path(__file__).resolve().parents[1]
ONE_SENTENCE = r"^[^\n]+\.$"
SHARED = ROOT.parent / "shared" / "data"
"""Data that the repository does not hold; tests that need them are skipped where they are absent."""

MR_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.4"
ENHANCED_MR_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.4.1"
TINY = NetworkSettings(channels=(8, 16), blocks=1, groups=4, fold=2, context=1, region=True, residual=True)

SHAPE, SPACING_MM = (88, 108, 88), 2.0
SKIN, BONE, CSF = 511, 515, 24
CORTEX, WHITE, VENTRICLE, THALAMUS, CAUDATE, PUTAMEN = 3, 2, 4, 10, 11, 12
RIGHT_OF = {CORTEX: 42, WHITE: 41, VENTRICLE: 43, THALAMUS: 49, CAUDATE: 50, PUTAMEN: 51}
BRAIN_SEMIAXES_MM = np.array([66.0, 82.0, 60.0])


def head_labels(variant: int = 0) -> np.ndarray:
    """A head of nested ellipsoids with a folded cortex, FreeSurfer labels, axes (R, A, S), 2 mm."""
    random = np.random.default_rng(variant)
    axes = [(np.arange(n) - (n - 1) / 2) * SPACING_MM for n in SHAPE]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    semiaxes = BRAIN_SEMIAXES_MM * random.uniform(0.94, 1.04, 3)
    depth = (1 - np.linalg.norm(points / semiaxes, axis=-1)) * semiaxes.min()
    folds = np.prod(np.sin(points / random.uniform(3.0, 4.0, 3) + random.uniform(0, 6, 3)), -1)
    labels = np.zeros(SHAPE, np.int16)
    for label, surface in ((SKIN, -13.0), (BONE, -7.0), (CSF, -2.0)):
        labels[depth > surface] = label
    labels[(depth > 1 + 6 * folds) & (depth > 0)] = CORTEX
    labels[depth > 8 + 8 * folds] = WHITE
    left_and_right = np.stack([np.abs(points[..., 0]), points[..., 1], points[..., 2]], -1)
    for label, centre, radii in (
        (THALAMUS, (11, -14, -2), (9, 13, 9)),
        (CAUDATE, (15, 14, 8), (5, 12, 7)),
        (PUTAMEN, (27, 2, -2), (6, 16, 9)),
        (VENTRICLE, (8, -2, 14), (6, 28, 7)),
    ):
        labels[np.linalg.norm((left_and_right - centre) / np.array(radii), axis=-1) < 1] = label
    right = points[..., 0] > 0
    for left, twin in RIGHT_OF.items():
        labels[right & (labels == left)] = twin
    return labels


def smooth_field(shape: tuple[int, int, int], seed: int = 0) -> Tensor:
    """Blurred uniform noise."""
    return blur_volume(torch.rand(shape, generator=Generator().manual_seed(seed)), 1.5)


def ball(shape: tuple[int, int, int], centre: tuple[float, float, float], radius: float) -> Tensor:
    """The mask of a ball."""
    axes = [torch.arange(n) - c for n, c in zip(shape, centre, strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0).sqrt() <= radius


def small_lesion_network(stages: int = 2, seed: int = 0) -> SmallLesionNetwork:
    """A tiny small-lesion detector with random weights."""
    torch.manual_seed(seed)
    network = SmallLesionNetwork(SmallLesionSettings(widths=(8, 4), stages=stages)).eval()
    for stage in network.stages:
        torch.nn.init.normal_(stage.last.weight)  # type: ignore[union-attr]
    return network


def light_noise_training(patch: pytest.MonkeyPatch) -> None:
    """Training of the diffusion methods with few shapes, and few steps and slices for validation."""
    patch.setattr(noise, "make_shape_bank", lambda seed: make_shape_bank(8, seed=seed))
    patch.setattr(anofpdm, "WALK_STEPS", 6)
    patch.setattr(synomaly, "NOISE_STEPS", (100, 200))
    patch.setattr(synomaly, "KERNELS", (3, 7))
    for task in (anofpdm, synomaly):
        patch.setattr(task, "VALIDATION_SLICES", 24)


def with_settings(config: TrainingConfig[Any], **changes: object) -> TrainingConfig[Any]:
    """A config whose task has other settings."""
    return replace(config, settings=replace(config.settings, **changes))


def tiny_description(name: str, **changes: Any) -> ModelDescription:
    """Of a restoration model with the network `TINY`."""
    usual = {"title": "For tests", "version": "1", "method": "disyre-v2", "network": TINY.to_dict()}
    return ModelDescription(**{"id": name, **usual, "spacing_mm": 4.0, "contrasts": ("T1",), **changes})


def save_tiny(
    folder: Path,
    method: str = "disyre-v2",
    score: str = "region",
    healthy: dict[str, dict[str, Any]] | None = None,
    by_contrast: dict[str, dict[str, Any]] | None = None,
) -> None:
    """A restoration model with random weights."""
    torch.manual_seed(0)
    network = RestorationNetwork(TINY)
    for weights in network.parameters():
        torch.nn.init.normal_(weights, std=0.1)
    detection = DetectionSettings(
        settings={"score": score} if method == "dae" else {"severities": [0.5], "score": score},
        by_contrast=by_contrast or {},
        score_scale={"T1": 1.0},
        borders={"T1": 0.5},
        healthy=healthy or {},
    )
    description = tiny_description(folder.name, method=method, detection=detection)
    save_model(folder, description, network.state_dict())


def new_dicom(volume: Volume, storage: str, series: str, instance: str) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = storage, instance
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    file = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID, file.SOPInstanceUID, file.Modality = storage, instance, "MR"
    file.StudyInstanceUID, file.SeriesInstanceUID, file.SeriesNumber = "1.2", series, 1
    file.PatientName, file.FrameOfReferenceUID = "DOE^JOHN", "1.2.9"
    file.Columns, file.Rows = volume.shape[:2]
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
    file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 16, 16, 15, 0
    return file


def pixel_measures(volume: Volume) -> Dataset:
    measures = Dataset()
    measures.PixelSpacing = [round(volume.spacing_mm[1], 6), round(volume.spacing_mm[0], 6)]
    measures.SliceThickness = round(volume.spacing_mm[2], 6)
    return measures


def plane_orientation(volume: Volume) -> Dataset:
    orientation = Dataset()
    cosines = ([[-1], [-1], [1]] * volume.affine[:3, :2] / volume.spacing_mm[:2]).T.ravel()
    orientation.ImageOrientationPatient = [f"{x:.10f}" for x in cosines]
    return orientation


def plane_position(volume: Volume, k: int) -> Dataset:
    position = Dataset()
    position.ImagePositionPatient = [f"{x:.8f}" for x in (volume.affine @ [0, 0, k, 1])[:3] * [-1, -1, 1]]
    return position


def write_dicom(
    folder: Path, volume: Volume, series: str = "1.2.3", slices: list[int] | None = None, copy: int = 0
) -> Path:
    """Writes one file a slice, with a rescale of 2 and -5, and file names out of order."""
    folder.mkdir(exist_ok=True)
    for k in range(volume.shape[2]) if slices is None else slices:
        file = new_dicom(volume, MR_IMAGE_STORAGE, series, f"{series}.{copy}.{k + 1}")
        for part in (pixel_measures(volume), plane_orientation(volume), plane_position(volume, k)):
            file.update(part)
        file.InstanceNumber, file.RescaleSlope, file.RescaleIntercept = k + 1, 2, -5
        file.PixelData = volume.voxels[:, :, k].T.astype("<u2").tobytes()
        file.save_as(folder / f"{(k * 7) % 997:03d}_{copy}{series}", enforce_file_format=True)
    return folder


def write_enhanced_dicom(
    folder: Path,
    volume: Volume,
    series: str = "1.2.8",
    slices: Sequence[int] | None = None,
    change: Callable[[Dataset, int], None] | None = None,
) -> Path:
    """Writes slices, all in their order when None, as the frames of one file; `change` edits the groups of each."""
    folder.mkdir(exist_ok=True)
    slices = range(volume.shape[2]) if slices is None else slices
    file = new_dicom(volume, ENHANCED_MR_IMAGE_STORAGE, series, f"{series}.1")
    shared = Dataset()
    shared.PixelMeasuresSequence = [pixel_measures(volume)]
    shared.PlaneOrientationSequence = [plane_orientation(volume)]
    file.SharedFunctionalGroupsSequence = [shared]
    frames = [Dataset() for _ in slices]
    for index, (frame, k) in enumerate(zip(frames, slices, strict=True)):
        frame.PlanePositionSequence = [plane_position(volume, k)]
        if change is not None:
            change(frame, index)
    file.PerFrameFunctionalGroupsSequence, file.NumberOfFrames = frames, len(frames)
    file.PixelData = volume.voxels[:, :, list(slices)].transpose(2, 1, 0).astype("<u2").tobytes()
    file.save_as(folder / f"enhanced{series}", enforce_file_format=True)
    return folder
