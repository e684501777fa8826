"""DICOM results: read back by pydicom and by dcmqi at the place where they were found."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

pytest.importorskip("highdicom")

import highdicom as hd
import pydicom
from pydicom.dataset import Dataset
from scipy.spatial.transform import Rotation
from support import ONE_SENTENCE, new_dicom, pixel_measures, plane_orientation, plane_position, write_dicom

from DISYRECore.detection.detector import Detection
from DISYRECore.detection.evidence import HealthyFindings
from DISYRECore.detection.findings import label_findings
from DISYRECore.errors import DisyreError
from DISYRECore.io.dicom import choose_stack
from DISYRECore.io.read import read_volume
from DISYRECore.io.volume import Volume, resample
from DISYRECore.reports import dicom
from DISYRECore.reports.dicom import REPORT, SCORE_MAP, SEGMENTATION, find_source, write_dicom_results

ENHANCED_MR_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.4.1"
SHAPE = (26, 20, 12)
RECORD = {
    "modality": "brain-mri",
    "method": "disyre-v2",
    "model": "brain-restoration",
    "model_version": "3.5",
    "model_sha256": "0a1b",
    "border": 0.3,
    "false_findings": 0.5,
}


def oblique(angles: tuple[float, float, float] = (20, -10, 30), thickness_mm: float = 3.0) -> np.ndarray:
    affine = np.eye(4)
    turned = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    affine[:3, :3] = turned * [0.9, 1.1, thickness_mm]
    affine[:3, 3] = [-30, 20, 5]
    return affine


def image(affine: np.ndarray, seed: int = 0) -> Volume:
    return Volume(np.random.default_rng(seed).integers(0, 500, SHAPE).astype(np.uint16), affine)


def complete(folder: Path) -> Path:
    """Adds what scanners write about patient and place."""
    for path in folder.iterdir():
        header = pydicom.dcmread(path)
        header.SpecificCharacterSet = "ISO_IR 100"
        header.PatientName, header.PatientID, header.IssuerOfPatientID = "Müller^Jörg", "4711", "Ward 3"
        header.PatientAge, header.StudyDescription = "040Y", "Head"
        header.save_as(path)
    return folder


def classic(folder: Path) -> Path:
    """One file a slice, their names out of order."""
    return complete(write_dicom(folder, image(oblique())))


def against_the_normal(folder: Path) -> Path:
    affine = oblique()
    affine[:3, 2] *= -1
    return complete(write_dicom(folder, image(affine)))


def multi_frame(folder: Path, echoes: int = 1) -> Path:
    """All slices in one file, interleaved."""
    folder.mkdir()
    volume = image(oblique())
    file = new_dicom(volume, ENHANCED_MR_IMAGE_STORAGE, "1.2.8", "1.2.8.1")
    shared = Dataset()
    shared.PixelMeasuresSequence = [pixel_measures(volume)]
    shared.PlaneOrientationSequence = [plane_orientation(volume)]
    file.SharedFunctionalGroupsSequence, file.PerFrameFunctionalGroupsSequence = [shared], []
    order = [k * 7 % volume.shape[2] for k in range(volume.shape[2])] * echoes
    for number, k in enumerate(order):
        frame, echo = Dataset(), Dataset()
        echo.EffectiveEchoTime = 90.0 * (1 + number // volume.shape[2])
        frame.MREchoSequence = [echo]
        frame.PlanePositionSequence = [plane_position(volume, k)]
        file.PerFrameFunctionalGroupsSequence.append(frame)
    file.NumberOfFrames = len(order)
    file.PixelData = volume.voxels.transpose(2, 1, 0)[order].astype("<u2").tobytes()
    file.save_as(folder / "enhanced", enforce_file_format=True)
    return complete(folder)


def detection_of(scan: Volume, with_findings: bool = True) -> Detection:
    """Findings that touch the corners of the scan and leave slices free between them."""
    score = np.zeros(scan.shape, np.float32)
    if with_findings:
        for box in (np.s_[2:6, 3:8, 2:5], np.s_[12:20, 8:15, 5:9], np.s_[-1:, -1:, -1:], np.s_[:1, :1, :1]):
            score[box] = np.random.default_rng(1).uniform(0.5, 1, score[box].shape)
    volume, brain = Volume(score, scan.affine), np.ones(scan.shape, bool)
    labels, findings = label_findings(volume, 0.3, brain, 0.0, HealthyFindings(0.05, 20, (0.4, 0.2, 0.1)), 9.0)
    findings = [replace(one, contrasts=("FLAIR", "T1")) for one in findings]
    mask = Volume(brain.astype(np.uint8), scan.affine)
    return Detection(scan, volume, Volume(labels, scan.affine), scan, mask, findings, 0.3, RECORD)


SOURCES = {
    "classic": (classic, False),
    "against the normal": (against_the_normal, False),
    "beside another series": (classic, True),
    "multi-frame": (multi_frame, False),
}


@pytest.fixture(scope="module", params=SOURCES.values(), ids=SOURCES)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Results of one of the sources, whose folder may hold a second contrast on the same grid."""
    make, has_company = request.param
    folder = tmp_path_factory.mktemp("dicom")
    series = make(folder / "series")
    if has_company:
        complete(write_dicom(series, image(oblique(), seed=1), "1.2.2"))
    detection = detection_of(read_volume(series))
    uid = choose_stack(series)[0].series
    paths = write_dicom_results(detection, series, folder)
    return SimpleNamespace(folder=folder, detection=detection, paths=paths, series=series, uid=uid)


def voxels_of(file: Dataset, frame: Dataset, pixels: np.ndarray, detection: Detection) -> np.ndarray:
    """Voxel indices of the scan (N, 3) at which the pixels of a frame lie, by the standard's equation C.7.6.2.1-1."""
    shared = file.SharedFunctionalGroupsSequence[0]
    row, column = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float).reshape(2, 3)
    down, right = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    place = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
    j, i = np.nonzero(np.ones_like(pixels))
    points = (place + np.outer(i * right, row) + np.outer(j * down, column)) * [-1, -1, 1]
    indices = (points - detection.scan.affine[:3, 3]) @ np.linalg.inv(detection.scan.affine[:3, :3]).T
    assert np.abs(indices - indices.round()).max() < 0.01
    return indices.round().astype(int)


def labels_of(path: Path, detection: Detection) -> np.ndarray:
    """The segments as a label image on the grid of the scan."""
    file, labels = pydicom.dcmread(path), np.zeros(detection.scan.shape, int)
    for frame, pixels in zip(file.PerFrameFunctionalGroupsSequence, file.pixel_array, strict=True):
        indices = voxels_of(file, frame, pixels, detection)[pixels.ravel() > 0]
        labels[tuple(indices.T)] = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
    return labels


def test_segments_are_read_back_where_they_were_found(written: SimpleNamespace) -> None:
    labels = labels_of(written.folder / SEGMENTATION, written.detection)
    assert (labels != written.detection.labels.voxels).sum() == 0
    assert labels.max() == len(written.detection.findings) == 4


def test_slices_that_are_shifted_against_each_other_keep_their_places(tmp_path: Path) -> None:
    """A gantry that was tilted by 12 degrees."""
    affine = oblique()
    affine[:3, 2] += 3 * np.tan(np.deg2rad(12)) * affine[:3, 1] / 1.1
    series = complete(write_dicom(tmp_path / "series", image(affine)))
    detection = detection_of(read_volume(series))
    write_dicom_results(detection, series, tmp_path)
    assert np.array_equal(labels_of(tmp_path / SEGMENTATION, detection), detection.labels.voxels)


def test_the_score_is_read_back_where_it_was(written: SimpleNamespace) -> None:
    file, detection = pydicom.dcmread(written.folder / SCORE_MAP), written.detection
    score = np.full(detection.scan.shape, np.nan)
    for frame, pixels in zip(file.PerFrameFunctionalGroupsSequence, file.pixel_array, strict=True):
        score[tuple(voxels_of(file, frame, pixels, detection).T)] = pixels.ravel()
    assert np.array_equal(score, detection.score.voxels)


def test_every_frame_names_the_source_image_that_it_lies_on(written: SimpleNamespace) -> None:
    places = {}
    for path in written.series.iterdir():
        header = pydicom.dcmread(path, stop_before_pixels=True)
        frames = header.get("PerFrameFunctionalGroupsSequence", [header])
        for number, frame in enumerate(frames, start=1):
            plane = frame.PlanePositionSequence[0] if "PlanePositionSequence" in frame else header
            places[header.SOPInstanceUID, number] = np.array(plane.ImagePositionPatient, float)
    for name in (SEGMENTATION, SCORE_MAP):
        for frame in pydicom.dcmread(written.folder / name).PerFrameFunctionalGroupsSequence:
            (source,) = frame.DerivationImageSequence[0].SourceImageSequence
            assert source.ReferencedSOPInstanceUID.startswith(f"{written.uid}.")
            place = places[source.ReferencedSOPInstanceUID, source.get("ReferencedFrameNumber", 1)]
            assert np.allclose(place, np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float))


def test_results_are_new_series_of_the_same_study_and_patient(written: SimpleNamespace) -> None:
    source = pydicom.dcmread(next(written.series.iterdir()))
    made = [pydicom.dcmread(path) for path in written.paths]
    assert [file.Modality for file in made] == ["OT", "SEG", "SR"]
    assert len({source.SeriesInstanceUID} | {file.SeriesInstanceUID for file in made}) == 4
    same = ("PatientName", "PatientID", "IssuerOfPatientID", "PatientAge", "StudyInstanceUID", "StudyDescription")
    for file in made:
        assert {name: file.get(name) for name in same} == {name: source.get(name) for name in same}
        assert "research use only" in file.SeriesDescription
    assert str(made[0].PatientName) == "Müller^Jörg"


def test_the_report_says_how_large_where_and_how_unusual(written: SimpleNamespace) -> None:
    segmentation = pydicom.dcmread(written.folder / SEGMENTATION)
    groups = hd.sr.srread(written.folder / REPORT).content.get_volumetric_roi_measurement_groups()
    for finding, group in zip(written.detection.findings, groups, strict=True):
        values = {one.name.meaning: one.value for one in group.get_measurements()}
        assert values["Volume"] == pytest.approx(finding.volume_ml)
        centre = [
            values[f"Centre, {axis}"] for axis in ("x towards the left", "y towards the back", "z towards the head")
        ]
        assert centre == pytest.approx([-finding.centroid_ras[0], -finding.centroid_ras[1], finding.centroid_ras[2]])
        told = [one.value.meaning for one in group.get_qualitative_evaluations()]
        assert told[-3:] == ["FLAIR", "T1", finding.rarity]
        assert group.reference_type == hd.sr.CodedConcept("121191", "DCM", "Referenced Segment")
        (site,) = group.finding_sites
        assert (site.laterality.meaning if site.laterality else "midline").lower() == finding.side
        assert group.tracking_uid == segmentation.SegmentSequence[finding.label - 1].TrackingUID


def run_dcmqi(name: str, *arguments: object) -> None:
    program = Path(pytest.importorskip("dcmqi").__file__).parent / "bin" / name
    subprocess.run([program, *map(str, arguments)], check=True, capture_output=True, timeout=60)


def test_dcmqi_reads_the_segments_at_their_place(written: SimpleNamespace, tmp_path: Path) -> None:
    seg = written.folder / SEGMENTATION
    run_dcmqi("segimage2itkimage", "--inputDICOM", seg, "--outputDirectory", tmp_path, "-t", "nii", "--mergeSegments")
    (path,) = tmp_path.glob("*.nii*")
    loaded = nib.load(path)
    labels = Volume(np.asarray(loaded.dataobj).astype(np.uint16), loaded.affine)
    back = resample(labels, written.detection.scan.grid, order=0).voxels
    assert (back != written.detection.labels.voxels).sum() == 0


def test_dcmqi_reads_the_score_at_its_place(written: SimpleNamespace, tmp_path: Path) -> None:
    run_dcmqi("paramap2itkimage", "--inputDICOM", written.folder / SCORE_MAP, "--outputDirectory", tmp_path)
    back = read_volume(next(tmp_path.glob("*.nrrd")))
    on_scan = resample(Volume(back.voxels, back.affine), written.detection.scan.grid, order=0)
    assert np.array_equal(on_scan.voxels, written.detection.score.voxels)


def test_dcmqi_reads_the_report(written: SimpleNamespace, tmp_path: Path) -> None:
    output = tmp_path / "report.json"
    run_dcmqi("tid1500reader", "--inputDICOM", written.folder / REPORT, "--outputMetadata", output)
    told = json.loads(output.read_text(encoding="utf-8"))["Measurements"]
    assert [one["ReferencedSegment"] for one in told] == [1, 2, 3, 4]
    volumes = [float(one["measurementItems"][0]["value"]) for one in told]
    assert volumes == pytest.approx([finding.volume_ml for finding in written.detection.findings])


@pytest.mark.parametrize("make", [classic, multi_frame])
def test_a_single_finding_is_a_segment_too(make: Callable[[Path], Path], tmp_path: Path) -> None:
    series = make(tmp_path / "series")
    found = detection_of(read_volume(series))
    alone = Volume(np.where(found.labels.voxels == 1, found.labels.voxels, 0), found.labels.affine)
    write_dicom_results(replace(found, labels=alone, findings=found.findings[:1]), series, tmp_path)
    assert pydicom.dcmread(tmp_path / SEGMENTATION).pixel_array.sum() == alone.voxels.sum()
    (group,) = hd.sr.srread(tmp_path / REPORT).content.get_volumetric_roi_measurement_groups()
    images = group.referenced_segment.source_images_for_segmentation
    if make is multi_frame:
        slices = [(number - 1) * 7 % SHAPE[2] for number in images[0].referenced_frame_numbers]
    else:
        slices = [int(str(one.referenced_sop_instance_uid).split(".")[-1]) - 1 for one in images]
    assert sorted(slices) == np.flatnonzero((alone.voxels == 1).any(axis=(0, 1))).tolist()


def test_without_findings_there_is_the_score_alone(tmp_path: Path) -> None:
    series = classic(tmp_path / "series")
    paths = write_dicom_results(detection_of(read_volume(series), with_findings=False), series, tmp_path)
    assert [path.name for path in paths] == [SCORE_MAP]


def test_a_scan_that_the_files_do_not_show_is_refused(tmp_path: Path) -> None:
    series = classic(tmp_path / "series")
    scan = read_volume(series)
    moved = scan.affine.copy()
    moved[0, 3] += 1
    other = image(oblique(), seed=2).voxels.astype(np.float32)
    for stranger in (replace(scan, affine=moved), replace(scan, voxels=other)):
        with pytest.raises(DisyreError, match=ONE_SENTENCE):
            find_source(series, stranger)


def test_a_series_with_a_gap_is_refused(tmp_path: Path) -> None:
    scan = read_volume(classic(tmp_path / "whole"))
    series = complete(write_dicom(tmp_path / "gap", image(oblique()), slices=[0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11]))
    with pytest.raises(DisyreError, match=ONE_SENTENCE):
        find_source(series, scan)


def test_a_file_of_two_echoes_is_refused(tmp_path: Path) -> None:
    series = multi_frame(tmp_path / "series", echoes=2)
    with pytest.raises(DisyreError, match=ONE_SENTENCE):
        find_source(series, read_volume(series))


def test_a_source_without_a_frame_of_reference_is_refused(tmp_path: Path) -> None:
    series = classic(tmp_path / "series")
    for path in series.iterdir():
        header = pydicom.dcmread(path)
        del header.FrameOfReferenceUID
        header.save_as(path)
    with pytest.raises(DisyreError, match="frame of reference"):
        find_source(series, read_volume(series))


def test_what_the_source_leaves_out_is_empty(tmp_path: Path) -> None:
    series = classic(tmp_path / "series")
    for path in series.iterdir():
        header = pydicom.dcmread(path)
        del header.PatientID, header.IssuerOfPatientID, header.SpecificCharacterSet
        header.PatientName = ""
        header.save_as(path)
    for path in write_dicom_results(detection_of(read_volume(series)), series, tmp_path):
        assert pydicom.dcmread(path).PatientID in ("", None)


def test_other_modalities_are_refused(tmp_path: Path) -> None:
    series = classic(tmp_path / "series")
    ultrasound = replace(detection_of(read_volume(series)), record={**RECORD, "modality": "ultrasound"})
    with pytest.raises(DisyreError, match=ONE_SENTENCE):
        write_dicom_results(ultrasound, series, tmp_path)


def test_without_highdicom_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "highdicom", None)
    spec = importlib.util.spec_from_file_location("without", dicom.__file__)
    with pytest.raises(DisyreError, match="pip install"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
