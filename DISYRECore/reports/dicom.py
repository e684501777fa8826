"""Results as DICOM objects, each a new series of the study that the scan came from.

Findings become a segmentation (SEG) with one segment each, the display score a parametric map of floats, and volumes,
places and meaning of the findings a structured report (SR, template TID 1500) that points at the segments. The patient
and study modules are copies of the source's; every frame names the source image that it lies on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from DISYRECore.detection.detector import Detection
from DISYRECore.detection.findings import Finding
from DISYRECore.errors import DisyreError
from DISYRECore.io.dicom import choose_stack, read_dicom
from DISYRECore.io.files import DICOM_RESULTS, short_name
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
    """The images that a scan was read from.

    Attributes:
        images: Headers without pixels: one for each slice, or a single one with many frames.
        slices: For each image or frame, in stored order, its index along the third axis of the grid.
        grid: Columns, rows, slices, to RAS mm.
    """

    images: list[Dataset]
    slices: list[int]
    grid: Grid

    def frames(self, volume: Volume) -> np.ndarray:
        """What a volume holds at the pixels of the images: (frame, row, column), in stored order."""
        voxels = resample(volume, self.grid, order=0).voxels
        return np.ascontiguousarray(voxels.T[self.slices])


# --- the source


def find_source(path: Path, scan: Volume) -> SourceSeries:
    """The images that a scan was read from.

    Args:
        path: The DICOM folder or file.
        scan: As read from it; array axes may be in another order.

    Raises:
        DisyreError: The scan is not what `read_dicom` makes of the path, it has no frame of reference, or its frames
            are only some of a file's.
    """
    stored, (stack, _) = read_dicom(path), choose_stack(path)
    if not _are_the_same(stored, scan):
        raise DisyreError(
            f"{short_name(path)} does not hold the scan that was read; give the DICOM series of this scan."
        )
    files = list(dict.fromkeys(frame.file for frame in stack.frames))
    images = [_completed(pydicom.dcmread(file, stop_before_pixels=True), path) for file in files]
    count = sum(int(image.get("NumberOfFrames") or 1) for image in images)
    if count != len(stack.frames) or 1 < len(images) < count:
        raise DisyreError(f"{short_name(path)} holds other frames than the scan's in a file; export the scan alone.")
    slices = np.argsort([frame.index for frame in stack.frames], kind="stable").tolist()
    return SourceSeries(images, slices, stored.grid)


def _are_the_same(stored: Volume, scan: Volume) -> bool:
    one, other = to_canonical(stored), to_canonical(scan)
    return same_grid(one.grid, other.grid) and np.allclose(one.voxels, other.voxels, rtol=1e-4)


def _completed(image: Dataset, path: Path) -> Dataset:
    """With the attributes that results have to name, empty where the source has none."""
    if not image.get("FrameOfReferenceUID"):
        raise DisyreError(
            f"{short_name(path)} names no frame of reference, so DICOM results would have no place; leave --dicom out."
        )
    for keyword in _ALWAYS_PRESENT:
        if keyword not in image:
            setattr(image, keyword, "")
    return image


# --- results


def write_dicom_results(detection: Detection, path: Path, folder: Path) -> list[Path]:
    """Writes `SCORE_MAP` and, where there are findings, `SEGMENTATION` and `REPORT`.

    Args:
        detection: Of a brain scan.
        path: The DICOM folder or file that the scan was read from.
        folder: Exists.

    Returns:
        Paths of what was written.

    Raises:
        DisyreError: Another modality, see `find_source` else, or the folder cannot be written to.
    """
    if detection.record["modality"] != BRAIN_MRI:
        raise DisyreError("DICOM results are made of brain MRI only; leave --dicom out.")
    source = find_source(path, detection.scan)
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
