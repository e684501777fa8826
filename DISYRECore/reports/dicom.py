"""Results as DICOM objects, each a new series of the study that the scan came from.

Findings become a segmentation (SEG) with one segment each, the display score a parametric map of floats, and volumes,
places and meaning of the findings a structured report (SR, template TID 1500) that points at the segments. The patient
and study modules are copies of the source's; every frame names the source image that it lies on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from DISYRECore.detection.detector import Detection
from DISYRECore.detection.findings import Finding
from DISYRECore.errors import DisyreError
from DISYRECore.io.files import DICOM_RESULTS, image_suffix, short_name
from DISYRECore.io.grid import LPS_TO_RAS, Grid, same_grid
from DISYRECore.io.volume import Volume, resample, to_canonical
from DISYRECore.models.description import BRAIN_MRI
from DISYRECore.version import __version__

try:
    import highdicom as hd
    import pydicom
    from pydicom.dataset import Dataset
    from pydicom.sr.codedict import Code, codes
except ImportError as missing:
    raise DisyreError("DICOM results need highdicom; install it with: pip install 'disyre[dicom]'.") from missing

SEGMENTATION, SCORE_MAP, REPORT = DICOM_RESULTS

LEAST_LIKENESS = 0.99
"""Correlation between a slice of the scan and the stored pixels from which on they are the same image."""

UNEVEN = 0.1
"""Deviation of a slice from its place in a regular stack, in slice distances, that readers tolerate."""

SEGMENT_RGB = (0, 200, 220)
EXPLAINED = "Research use only. Not a medical device."

_MAKER = {
    "manufacturer": "SlicerDISYRE",
    "manufacturer_model_name": "DISYRE",
    "software_versions": __version__,
    "device_serial_number": __version__,
}
_ALWAYS_PRESENT = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
)
"""May be empty, must not be missing."""

_BRAIN = Code("12738006", "SCT", "Brain")
_LESION = Code("52988006", "SCT", "Lesion")
_ALTERED = Code("49755003", "SCT", "Morphologically Altered Structure")
_PROCEDURE = Code("816077007", "SCT", "MRI of brain")
_SIDES = {"left": Code("7771000", "SCT", "Left"), "right": Code("24028007", "SCT", "Right")}
_MILLILITRE, _MILLIMETRE, _NO_UNIT = Code("mL", "UCUM", "mL"), Code("mm", "UCUM", "mm"), Code("1", "UCUM", "no units")
_VOLUME, _LONG_AXIS = Code("118565006", "SCT", "Volume"), Code("103339001", "SCT", "Long Axis")


def _own(value: str, meaning: str) -> Code:
    return Code(value, "99DISYRE", meaning)


_SCORE = _own("score", "Anomaly score")


@dataclass(frozen=True, eq=False)
class SourceSeries:
    """The images of a DICOM series that fill a grid.

    Attributes:
        files: Where they are.
        images: Headers without pixels: one for each slice, or a single one with many frames.
        slices: For each image or frame, in stored order, its index along the third axis of the grid.
        grid: Columns, rows, slices, to RAS mm.
    """

    files: list[Path]
    images: list[Dataset]
    slices: list[int]
    grid: Grid

    def frames(self, volume: Volume) -> np.ndarray:
        """What a volume holds at the pixels of the images: (frame, row, column), in stored order."""
        voxels = resample(volume, self.grid, order=0).voxels
        return np.ascontiguousarray(voxels.T[self.slices])

    def pixels(self, frame: int) -> np.ndarray:
        """Stored pixels (row, column) of a frame."""
        image = sitk.ReadImage(str(self.files[0 if len(self.images) == 1 else frame]))
        return sitk.GetArrayFromImage(image)[frame if len(self.images) == 1 else 0]


# --- the source


def source_files(scan: Path) -> list[Path]:
    """The files of a DICOM folder, or a single one.

    Raises:
        DisyreError: It is an image of another format.
    """
    if scan.is_file() and image_suffix(scan):
        raise DisyreError(f"{scan.name} is no DICOM series, to which DICOM results could belong; leave --dicom out.")
    return sorted(file for file in scan.iterdir() if file.is_file()) if scan.is_dir() else [scan]


def find_source(files: Sequence[Path], scan: Volume) -> SourceSeries:
    """The series that a scan was read from: it lies on the same grid and shows the same.

    Args:
        files: DICOM files, in any order, of one series or of many; others are passed over.
        scan: As read from them.

    Raises:
        DisyreError: None of the series is the scan, or it has no frame of reference.
    """
    for found in _series(files):
        if same_grid(to_canonical(_on(found.grid)).grid, to_canonical(_on(scan.grid)).grid) and _shows(found, scan):
            return _completed(found, scan)
    raise DisyreError(
        f"The DICOM images of {short_name(scan.source)} are not on the grid of the scan; DICOM results need a regular "
        "series that was not resampled."
    )


def _on(grid: Grid) -> Volume:
    """A volume that holds nothing; no memory is taken."""
    return Volume(np.broadcast_to(np.uint8(0), grid.shape), grid.affine)


def _series(files: Sequence[Path]) -> list[SourceSeries]:
    """The series among files whose slices form regular stacks."""
    by_uid: dict[str, list[tuple[Path, Dataset]]] = defaultdict(list)
    for file in files:
        header = _header(file)
        if header is not None:
            by_uid[str(header.SeriesInstanceUID)].append((file, header))
    return [found for pairs in by_uid.values() if (found := _stack(pairs)) is not None]


def _header(file: Path) -> Dataset | None:
    """A DICOM image without its pixels; None for anything else."""
    try:
        header = pydicom.dcmread(file, stop_before_pixels=True)
    except (pydicom.errors.InvalidDicomError, OSError):
        return None
    return header if "Rows" in header and "SeriesInstanceUID" in header else None


def _stack(pairs: list[tuple[Path, Dataset]]) -> SourceSeries | None:
    """Slices or frames in their order along the normal; None where they are no regular stack."""
    files, images = [file for file, _ in pairs], [header for _, header in pairs]
    if len(images) > 1 and any("PerFrameFunctionalGroupsSequence" in image for image in images):
        return None
    try:
        planes = _planes(images)
    except (AttributeError, IndexError, TypeError, ValueError):
        return None
    places = np.array([place for place, _, _ in planes])
    _, cosines, pixel_mm = planes[0]
    if len(places) < 2 or any(not np.allclose(c, cosines, atol=1e-4) for _, c, _ in planes):
        return None
    along = places @ np.cross(cosines[:3], cosines[3:])
    order = np.argsort(along)
    slices = np.argsort(order)
    step = (places[order[-1]] - places[order[0]]) / (len(places) - 1)
    deviation = np.linalg.norm(places - places[order[0]] - slices[:, None] * step, axis=1)
    if deviation.max() > UNEVEN * np.linalg.norm(step):
        return None
    affine = np.eye(4)
    affine[:3] = np.column_stack([cosines[:3] * pixel_mm[1], cosines[3:] * pixel_mm[0], step, places[order[0]]])
    grid = Grid((int(images[0].Columns), int(images[0].Rows), len(places)), LPS_TO_RAS @ affine)
    return SourceSeries(files, images, slices.tolist(), grid)


def _planes(images: list[Dataset]) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Place of the first pixel, direction cosines of row and column, and pixel spacing of each image or frame, LPS."""
    first = images[0]
    if "PerFrameFunctionalGroupsSequence" not in first:
        return [_plane(image, image, image) for image in images]
    shared = first.SharedFunctionalGroupsSequence[0]
    return [
        _plane(*(_group(name, frame, shared) for name in ("PlanePosition", "PlaneOrientation", "PixelMeasures")))
        for frame in first.PerFrameFunctionalGroupsSequence
    ]


def _group(name: str, frame: Dataset, shared: Dataset) -> Dataset:
    keyword = f"{name}Sequence"
    group: Dataset = (frame if keyword in frame else shared)[keyword][0]
    return group


def _plane(position: Dataset, orientation: Dataset, measures: Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    values = position.ImagePositionPatient, orientation.ImageOrientationPatient, measures.PixelSpacing
    place, cosines, pixel_mm = (np.array([float(number) for number in value]) for value in values)
    return place, cosines, pixel_mm


def _shows(series: SourceSeries, scan: Volume) -> bool:
    """Whether the stored pixels of the middle slice are those of the scan."""
    frame = series.slices.index(len(series.slices) // 2)
    stored, seen = series.pixels(frame).ravel(), series.frames(scan)[frame].ravel()
    if not np.ptp(stored) or not np.ptp(seen):
        return np.ptp(stored) == np.ptp(seen)
    return float(np.corrcoef(stored, seen)[0, 1]) >= LEAST_LIKENESS


def _completed(series: SourceSeries, scan: Volume) -> SourceSeries:
    """With the attributes that results have to name, empty where the source has none."""
    if not all(image.get("FrameOfReferenceUID") for image in series.images):
        raise DisyreError(
            f"{short_name(scan.source)} names no frame of reference, so DICOM results would have no place; leave "
            "--dicom out."
        )
    for image in series.images:
        for keyword in _ALWAYS_PRESENT:
            if keyword not in image:
                setattr(image, keyword, "")
    return series


# --- results


def write_dicom_results(detection: Detection, files: Sequence[Path], folder: Path) -> list[Path]:
    """Writes `SCORE_MAP` and, where there are findings, `SEGMENTATION` and `REPORT`.

    Args:
        detection: Of a brain scan.
        files: The DICOM files that the scan was read from; those of other series beside them do not matter.
        folder: Exists.

    Returns:
        Paths of what was written.

    Raises:
        DisyreError: Another modality, see `find_source` else, or the folder cannot be written to.
    """
    if detection.record["modality"] != BRAIN_MRI:
        raise DisyreError("DICOM results are made of brain MRI only; leave --dicom out.")
    source = find_source(files, detection.scan)
    objects = {SCORE_MAP: score_map(detection, source)}
    if detection.findings:
        segmentation = segment(detection, source)
        objects |= {SEGMENTATION: segmentation, REPORT: report(detection, source, segmentation)}
    try:
        for name, made in objects.items():
            made.save_as(folder / name)
    except OSError as error:
        raise DisyreError(f"Writing to {folder} failed ({error.strerror}); is the disk full?", "output") from error
    return [folder / name for name in objects]


def segment(detection: Detection, source: SourceSeries) -> hd.seg.Segmentation:
    """The findings as a binary segmentation: segment n is finding n; frames without findings are left out."""
    return hd.seg.Segmentation(
        source_images=source.images,
        pixel_array=source.frames(detection.labels),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[_segment(finding, detection.record) for finding in detection.findings],
        pixel_measures=_pixel_measures(source),
        content_label="FINDINGS",
        content_description=EXPLAINED,
        **_identity(source, 1, "DISYRE findings"),
    )


def score_map(detection: Detection, source: SourceSeries) -> hd.pm.ParametricMap:
    """The display score, 0 to 1, as a parametric map of 32 bit floats on all frames of the source."""
    mapping = hd.pm.RealWorldValueMapping(
        "score", "Anomaly score, 0 to 1", _NO_UNIT, (0.0, 1.0), slope=1.0, intercept=0.0, quantity_definition=_SCORE
    )
    made = hd.pm.ParametricMap(
        source_images=source.images,
        pixel_array=source.frames(detection.score).astype(np.float32),
        real_world_value_mappings=[mapping],
        contains_recognizable_visual_features=False,
        voi_lut_transformations=[hd.VOILUTTransformation(window_center=0.5, window_width=1.0)],
        pixel_measures=_pixel_measures(source),
        content_label="SCORE",
        content_description=EXPLAINED,
        **_identity(source, 2, "DISYRE anomaly score"),
    )
    made.SharedFunctionalGroupsSequence[0].FrameAnatomySequence = [_frame_anatomy()]
    _put_in_rising_order(made)
    return made


def _put_in_rising_order(made: hd.pm.ParametricMap) -> None:
    """Orders frames along the normal, as dcmqi takes them to be; highdicom writes them against it."""
    frames = list(made.PerFrameFunctionalGroupsSequence)[::-1]
    for index, frame in enumerate(frames, start=1):
        frame.FrameContentSequence[0].DimensionIndexValues = index
    made.PerFrameFunctionalGroupsSequence = frames
    made.FloatPixelData = made.pixel_array[::-1].tobytes()


def _frame_anatomy() -> Dataset:
    """Optional by the standard, but dcmqi reads no map without it."""
    anatomy = Dataset()
    anatomy.AnatomicRegionSequence = [hd.sr.CodedConcept.from_code(_BRAIN)]
    anatomy.FrameLaterality = "U"
    return anatomy


def report(detection: Detection, source: SourceSeries, segmentation: hd.seg.Segmentation) -> hd.sr.Comprehensive3DSR:
    """Volumes, places and meaning of the findings; each points at its segment."""
    observer = hd.sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(
            uid=hd.UID(), name="DISYRE", manufacturer_name="SlicerDISYRE", model_name=_algorithm_name(detection.record)
        ),
    )
    frames, record = source.frames(detection.labels), detection.record
    measured = [
        _measured(finding, segmentation, _images_of(frames == finding.label, source), record)
        for finding in detection.findings
    ]
    content = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=observer),
        procedure_reported=_PROCEDURE,
        imaging_measurements=measured,
    )
    return hd.sr.Comprehensive3DSR(
        evidence=[segmentation, *source.images], content=content[0], **_identity(source, 3, "DISYRE report")
    )


def _pixel_measures(source: SourceSeries) -> hd.PixelMeasuresSequence:
    """Readers that find no distance between slices guess it from the frames with findings."""
    column, row, slice_mm = source.grid.spacing_mm
    return hd.PixelMeasuresSequence(
        pixel_spacing=(row, column), slice_thickness=slice_mm, spacing_between_slices=slice_mm
    )


def _identity(source: SourceSeries, number: int, description: str) -> dict[str, Any]:
    """Who made a new series, and what it is called."""
    return {
        "series_instance_uid": hd.UID(),
        "series_number": 100 * int(source.images[0].get("SeriesNumber") or 1) + number,
        "series_description": f"{description} (research use only)",
        "sop_instance_uid": hd.UID(),
        "instance_number": 1,
        **_MAKER,
    }


def _segment(finding: Finding, record: dict[str, Any]) -> hd.seg.SegmentDescription:
    return hd.seg.SegmentDescription(
        segment_number=finding.label,
        segment_label=_name(finding),
        segmented_property_category=_ALTERED,
        segmented_property_type=_LESION,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=_algorithm_name(record),
            family=codes.cid7162.ArtificialIntelligence,
            version=__version__,
            parameters={name: str(record[name]) for name in ("border", "false_findings", "model_sha256")},
        ),
        tracking_uid=hd.UID(),
        tracking_id=_name(finding),
        anatomic_regions=[_BRAIN],
        display_color=hd.color.CIELabColor.from_rgb(*SEGMENT_RGB),
    )


def _name(finding: Finding) -> str:
    return f"Finding {finding.label}"


def _algorithm_name(record: dict[str, Any]) -> str:
    """``DISYRE disyre-v2 (brain-restoration 3.5)``, within the 64 characters of a long string."""
    model = f" ({record['model']} {record['model_version']})" if record["model"] else ""
    return f"DISYRE {record['method']}{model}"[:64]


def _measured(
    finding: Finding,
    segmentation: hd.seg.Segmentation,
    images: list[hd.sr.SourceImageForSegmentation],
    record: dict[str, Any],
) -> hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations:
    described = segmentation.get_segment_description(finding.label)
    return hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(described.tracking_uid, described.tracking_id),
        referenced_segment=hd.sr.ReferencedSegment(
            segmentation.SOPClassUID, segmentation.SOPInstanceUID, finding.label, source_images=images
        ),
        finding_type=_LESION,
        finding_category=_ALTERED,
        finding_sites=[hd.sr.FindingSite(_BRAIN, laterality=_SIDES.get(finding.side))],
        algorithm_id=hd.sr.AlgorithmIdentification(_algorithm_name(record), __version__),
        measurements=_measurements(finding),
        qualitative_evaluations=_evaluations(finding),
    )


def _images_of(found: np.ndarray, source: SourceSeries) -> list[hd.sr.SourceImageForSegmentation]:
    """The source images, or the frames of the one source image, that a finding (frame, row, column) lies on."""
    frames = np.flatnonzero(found.any(axis=(1, 2)))
    if len(source.images) == 1:
        only = source.images[0]
        numbers = (frames + 1).tolist()
        return [hd.sr.SourceImageForSegmentation(only.SOPClassUID, only.SOPInstanceUID, numbers)]
    images = [source.images[frame] for frame in frames]
    return [hd.sr.SourceImageForSegmentation(image.SOPClassUID, image.SOPInstanceUID) for image in images]


def _measurements(finding: Finding) -> list[hd.sr.Measurement]:
    x, y, z = (LPS_TO_RAS @ [*finding.centroid_ras, 1.0])[:3].tolist()
    values = [
        hd.sr.Measurement(_VOLUME, finding.volume_ml, _MILLILITRE),
        hd.sr.Measurement(_LONG_AXIS, finding.diameter_mm, _MILLIMETRE),
        hd.sr.Measurement(_SCORE, finding.peak, _NO_UNIT, derivation=codes.SCT.Maximum),
        hd.sr.Measurement(_SCORE, finding.mean, _NO_UNIT, derivation=codes.SCT.Mean),
        hd.sr.Measurement(_own("centre-x", "Centre, x towards the left"), x, _MILLIMETRE),
        hd.sr.Measurement(_own("centre-y", "Centre, y towards the back"), y, _MILLIMETRE),
        hd.sr.Measurement(_own("centre-z", "Centre, z towards the head"), z, _MILLIMETRE),
    ]
    if finding.evidence is not None:
        values.append(hd.sr.Measurement(_own("evidence", "Evidence: log odds x mL"), finding.evidence, _NO_UNIT))
    if finding.false_findings is not None:
        often = _own("false-findings", "So strong findings in a healthy scan")
        values.append(hd.sr.Measurement(often, finding.false_findings, _NO_UNIT))
    return values


def _evaluations(finding: Finding) -> list[hd.sr.QualitativeEvaluation]:
    told = [
        hd.sr.QualitativeEvaluation(_own("shown-by", "Shown by contrast"), _own(contrast, contrast))
        for contrast in finding.contrasts
    ]
    if finding.false_findings is not None:
        value = _own(f"{finding.false_findings:.2g}", finding.rarity)
        told.append(hd.sr.QualitativeEvaluation(_own("rarity", "How unusual"), value))
    return told
