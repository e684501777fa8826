"""Contrast recognition: by words, by the image of synthetic scans of the bundled anatomy, and by both."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import fit_contrast
import numpy as np
import pydicom
import pytest
from scipy import ndimage
from support import ONE_SENTENCE, ROOT, SHARED, write_dicom

from DISYRECore.errors import DisyreError
from DISYRECore.io.read import read_volume
from DISYRECore.io.volume import Volume
from DISYRECore.preprocessing.contrast import SURE, combine, contradiction, contrast_of, estimate_contrast
from DISYRECore.preprocessing.contrast_image import CONSTANTS, CONTRASTS, Classifier, contrast_from_image, features
from DISYRECore.preprocessing.contrast_words import ScanHeader, contrast_from_words, read_header
from DISYRECore.preprocessing.prepare import prepare
from DISYRECore.synthesis.anatomy import AnatomyBank, load_anatomies
from DISYRECore.synthesis.intensity import expand
from DISYRECore.synthesis.test_set import SyntheticCase, synthesise_case

SPACING_MM = 2.0
ANATOMY = ROOT / "Resources" / "Anatomy" / "folded_head.nii.gz"

NAMES = {
    "T1.nii.gz": "T1",
    "after_T2.nii.gz": "T2",
    "FLAIR.nrrd": "FLAIR",
    "patient1.nii.gz": None,
    "part10.nii.gz": None,
    "at2b.nii.gz": None,
    "sub-01_t10.nii.gz": None,
    "017.nii.gz": None,
    "TSE.nii.gz": None,
    "T1_T2.nii.gz": None,
    "pd_t2.nii.gz": None,
    "sub-01_PDT2.nii.gz": None,
    "sub-01_T1w.nii.gz": "T1",
    "sub-T1_T2w.nii.gz": "T2",
    "sub-03_ses-post_T1w.nii.gz": "T1",
    "sub-01_ce-gadolinium_T1w.nii.gz": "T1C",
    "sub-01_FLAIR.nii.gz": "FLAIR",
    "sub-01_PDw.nii.gz": "PD",
    "sub-01_T2starw.nii.gz": "other",
    "sub-01_inplaneT2.nii.gz": "T2",
    "sub-52_T1w_brain.nii.gz": "T1",
    "IXI012-HH-1211_T1.nii.gz": "T1",
    "BraTS2021_00000_t1ce.nii.gz": "T1C",
    "T1C.nii.gz": "T1C",
    "t1gd": "T1C",
    "T1_post_contrast": "T1C",
    "T1+C": "T1C",
    "T1 C+": "T1C",
    "T1 C-": "T1",
    "T1_KM": "T1C",
    "T1_ohne_KM": "T1",
    "T1_without_contrast": "T1",
    "t1_noncontrast": "T1",
    "T1_pre_contrast": "T1",
    "T1_post_op": "T1",
    "t1_flair": "T1",
    "t2_flair": "FLAIR",
    "T2flair": "FLAIR",
    "CUBE_T2_FLAIR_post_gad": "FLAIR",
    "t2_spc_da-fl_sag": "FLAIR",
    "dark fluid": "FLAIR",
    "MPRAGE": "T1",
    "MP-RAGE_gad": "T1C",
    "AX_FSPGR": "T1",
    "SPGR": "T1",
    "BRAVO": "T1",
    "t1_mprage_sag_p2": "T1",
    "sT1W_3D_TFE": "T1",
    "3DT1": "T1",
    "t2_tse_tra": "T2",
    "proton_density": "PD",
    "PD": "PD",
    "T2*": "other",
    "T2_STAR": "other",
    "SWI": "other",
    "ADC": "other",
    "DWI_b1000": "other",
    "T1_map": "other",
    "": None,
}

HEADERS = [
    (ScanHeader("DICOM", ("AX T1 SE",), "", "SE", 500, 15), "T1"),
    (ScanHeader("DICOM", ("AX",), "", "SE\\IR", 9000, 120, 2400), "FLAIR"),
    (ScanHeader("DICOM", ("T2 FLAIR",), "", "SE", 9000, 120), "FLAIR"),
    (ScanHeader("DICOM", ("AX T2",), "", "SE\\IR", 9000, 120, 2400), None),
    (ScanHeader("DICOM", ("",), "Gadovist", "SE", 500, 15), "T1C"),
    (ScanHeader("DICOM", ("MPRAGE",), "Gadovist"), "T1C"),
    (ScanHeader("DICOM", ("T1 pre contrast",), "Gadovist"), "T1"),
    (ScanHeader("DICOM", ("T1 w/o contrast",)), "T1"),
    (ScanHeader("DICOM", ("", "t2_tse_tra")), "T2"),
    (ScanHeader("JSON side car", (), "", "SE", 4000, 90), "T2"),
    (ScanHeader("JSON side car", (), "", "SE", 3000, 15), "PD"),
    (ScanHeader("JSON side car", (), "", "GR\\IR", 2300, 3, 900), "T1"),
    (ScanHeader("JSON side car", (), "", "GR", 25, 4), None),
    (ScanHeader("JSON side car", (), "", "EP\\SE", 4000, 90), None),
]


@pytest.mark.parametrize(("name", "contrast"), NAMES.items())
def test_names_tell_the_contrast(name: str, contrast: str | None) -> None:
    assert contrast_from_words(name)[0] == contrast


@pytest.mark.parametrize(("header", "contrast"), HEADERS)
def test_headers_tell_the_contrast(header: ScanHeader, contrast: str | None) -> None:
    assert contrast_from_words("", header)[0] == contrast


def test_folders_above_a_scan_tell_nothing() -> None:
    assert contrast_from_words("/T1/T2/017.nii.gz")[0] is None


def test_words_that_contradict_each_other_are_no_opinion() -> None:
    contrast, why = contrast_from_words("T1.nii.gz", ScanHeader("DICOM", ("AX T2",)))
    assert contrast is None
    assert why == "file name says T1 but DICOM says T2"


def test_words_that_agree_are_named() -> None:
    assert contrast_from_words("T1.nii.gz", ScanHeader("DICOM", ("T1 gad",))) == ("T1C", "file name and DICOM")


def test_side_car_is_read_in_seconds(tmp_path: Path) -> None:
    values = {"EchoTime": 0.09, "RepetitionTime": 4.0, "ScanningSequence": ["SE"], "SeriesDescription": "ax"}
    (tmp_path / "scan.json").write_text(json.dumps(values))
    header = read_header(str(tmp_path / "scan.nii.gz"))
    assert header == ScanHeader("JSON side car", ("ax", ""), "", "SE", 4000.0, 90.0, None)
    assert contrast_from_words("scan.nii.gz", header) == ("T2", "JSON side car")


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"EchoTime": "long"}'])
def test_side_car_without_sense_tells_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "scan.json").write_text(text)
    assert contrast_from_words("scan.nii.gz", read_header(str(tmp_path / "scan.nii.gz")))[0] is None


def test_dicom_tags_are_read(tmp_path: Path) -> None:
    tags = {"SeriesDescription": "AX FLAIR", "ScanningSequence": "SE", "RepetitionTime": 9000, "EchoTime": 120}
    folder = write_dicom(tmp_path, Volume(np.arange(192, dtype=np.float32).reshape(8, 8, 3), np.eye(4)))
    for file in folder.iterdir():
        image = pydicom.dcmread(file)
        for name, value in {**tags, "InversionTime": 2400}.items():
            setattr(image, name, value)
        image.save_as(file)
    header = read_header(str(folder))
    assert header == ScanHeader("DICOM", ("AX FLAIR", ""), "", "SE", 9000.0, 120.0, 2400.0)
    assert contrast_from_words("scan", header)[0] == "FLAIR"


def test_nothing_to_read_is_no_header(tmp_path: Path) -> None:
    assert read_header(str(tmp_path)) is None
    assert read_header("") is None


# --- both

T1_SEEN = dict(zip(CONTRASTS, (0.97, 0.015, 0.003, 0.008, 0.002, 0.002), strict=True))
UNCLEAR = dict(zip(CONTRASTS, (0.5, 0.05, 0.03, 0.4, 0.01, 0.01), strict=True))


def test_words_and_image_that_agree_are_surer_than_either() -> None:
    estimate = combine(("FLAIR", "file name"), UNCLEAR)
    assert (estimate.contrast, estimate.source, estimate.doubt) == ("FLAIR", "file name and image", "")
    assert estimate.is_sure
    assert combine(("T1", "DICOM"), T1_SEEN).probability > T1_SEEN["T1"]


@pytest.mark.parametrize("named", ["T2", "FLAIR", "PD", "other"])
def test_words_against_a_sure_image_are_asked_about(named: str) -> None:
    estimate = combine((named, "file name"), T1_SEEN)
    assert estimate.probability < SURE
    assert f"The file name says {named}, but the image looks like T1." in estimate.doubt
    assert f"taken for {estimate.contrast}" in estimate.doubt


def test_contrast_agent_is_a_matter_of_words() -> None:
    estimate = combine(("T1C", "file name"), T1_SEEN)
    assert (estimate.contrast, estimate.is_sure, estimate.doubt) == ("T1C", True, "")


def test_image_decides_where_words_say_nothing_or_two_things() -> None:
    assert combine((None, "neither"), T1_SEEN).source == "image"
    estimate = combine((None, "file name says T1 but DICOM says T2"), T1_SEEN)
    assert (estimate.contrast, estimate.source) == ("T1", "image")
    assert estimate.doubt == "The file name says T1 but DICOM says T2."


def test_what_the_user_says_is_checked() -> None:
    assert contradiction("T2", T1_SEEN) == "The user says T2, but the image looks like T1."
    assert not contradiction("T1C", T1_SEEN)
    assert not contradiction("T2", UNCLEAR)


# --- the image

Brain = tuple[np.ndarray, np.ndarray]
REAL = {
    "pathology/ms_patient07/T1": "T1",
    "pathology/ms_patient07/T2": "T2",
    "pathology/ms_patient07/FLAIR": "FLAIR",
    "pathology/tumour_TCGA-DU-7294/T1": "T1",
    "pathology/tumour_TCGA-DU-7294/FLAIR": "FLAIR",
    "pathology/stroke_M2208/T2_brain": "T2",
    "pathology/stroke_niivue/FLAIR_brain": "FLAIR",
    "healthy/ds002748_t1_brain/sub-52_T1w_brain": "T1",
}
LESIONS = [("T1", -0.3), ("T1", 0.3), ("T2", 0.9), ("FLAIR", 0.5), ("FLAIR", -0.3)]


@pytest.fixture(scope="module")
def bank() -> AnatomyBank:
    return load_anatomies([ANATOMY])


@pytest.fixture(scope="module")
def cases(bank: AnatomyBank) -> dict[str, list[SyntheticCase]]:
    """Healthy synthetic brains, by contrast."""
    return {
        contrast: [
            synthesise_case(bank, index, 4, contrast=contrast, kind="none", spacing_mm=SPACING_MM) for index in range(3)
        ]
        for contrast in ("T1", "T2", "FLAIR")
    }


@pytest.fixture(scope="module")
def brains(cases: dict[str, list[SyntheticCase]]) -> dict[str, list[Brain]]:
    """Their linear intensities and masks."""

    def brain(case: SyntheticCase) -> Brain:
        prepared = prepare(case.scan, SPACING_MM, case.brain_mask.voxels > 0, case.contrast)
        return expand(prepared.image.voxels), prepared.mask

    return {contrast: [brain(case) for case in own] for contrast, own in cases.items()}


def best(image: np.ndarray, mask: np.ndarray) -> str:
    """The likeliest contrast of a brain."""
    probabilities = contrast_from_image(image, mask, SPACING_MM)
    return max(probabilities, key=lambda contrast: probabilities[contrast])


def with_mass(image: np.ndarray, mask: np.ndarray, step: float, radius_mm: float = 33.0) -> np.ndarray:
    """A round lesion in the right hemisphere, of 150 mL where the radius is not given."""
    centre = np.array(ndimage.center_of_mass(mask))
    centre[0] += 30 / SPACING_MM
    distance = np.sqrt(sum((x - c) ** 2 for x, c in zip(np.indices(mask.shape), centre, strict=True))) * SPACING_MM
    return np.where((distance < radius_mm) & mask, np.maximum(image + step, 0), image)


@pytest.mark.parametrize("contrast", ["T1", "T2", "FLAIR"])
def test_healthy_brains_are_recognised(brains: dict[str, list[Brain]], contrast: str) -> None:
    assert [best(*brain) for brain in brains[contrast]] == [contrast] * 3


@pytest.mark.parametrize(("contrast", "step"), LESIONS)
def test_a_large_lesion_does_not_change_the_answer(brains: dict[str, list[Brain]], contrast: str, step: float) -> None:
    assert [best(with_mass(image, mask, step), mask) for image, mask in brains[contrast]] == [contrast] * 3


@pytest.mark.parametrize(("contrast", "step"), LESIONS)
def test_no_lesion_of_230_ml_makes_the_image_sure_of_another_contrast(
    brains: dict[str, list[Brain]], contrast: str, step: float
) -> None:
    for image, mask in brains[contrast]:
        probabilities = contrast_from_image(with_mass(image, mask, step, radius_mm=38.0), mask, SPACING_MM)
        assert max(p for other, p in probabilities.items() if other != contrast) < SURE


@pytest.mark.parametrize("contrast", ["T1", "T2", "FLAIR"])
def test_slices_of_7_mm_do_not_change_the_answer(brains: dict[str, list[Brain]], contrast: str) -> None:
    def thick(image: np.ndarray) -> np.ndarray:
        slices = ndimage.uniform_filter1d(image, 4, 2)[:, :, ::4]
        return np.repeat(slices, 4, 2)[:, :, : image.shape[2]]

    assert [best(thick(image), mask) for image, mask in brains[contrast]] == [contrast] * 3


@pytest.mark.parametrize("contrast", ["T1", "T2", "FLAIR"])
def test_left_and_right_are_alike(brains: dict[str, list[Brain]], contrast: str) -> None:
    image, mask = brains[contrast][0]
    image = with_mass(image, mask, 0.2)
    mirrored = contrast_from_image(image[::-1], mask[::-1], SPACING_MM)
    assert mirrored == pytest.approx(contrast_from_image(image, mask, SPACING_MM), abs=0.1)


def test_the_unit_of_intensity_counts_for_little(brains: dict[str, list[Brain]]) -> None:
    image, mask = brains["T1"][0]
    relative = {name: value for name, value in features(image, mask, SPACING_MM).items() if "%" in name}
    other = features(3 * image, mask, SPACING_MM)
    assert {name: other[name] for name in relative} == pytest.approx(relative, abs=1e-6)


def test_probabilities_sum_to_one(brains: dict[str, list[Brain]]) -> None:
    probabilities = contrast_from_image(*brains["T2"][0], SPACING_MM)
    assert tuple(probabilities) == CONTRASTS
    assert sum(probabilities.values()) == pytest.approx(1)


def test_too_little_of_a_brain_leaves_it_to_the_words() -> None:
    mask = np.zeros((20, 20, 20), bool)
    mask[8:12, 8:12, 8:12] = True
    image = mask * 0.45
    assert not features(image, mask, SPACING_MM)
    assert not estimate_contrast(image, mask, SPACING_MM, (None, "nothing")).is_sure
    assert estimate_contrast(image, mask, SPACING_MM, ("T2", "file name")).is_sure


def test_a_slab_of_40_mm_leaves_it_to_the_words(brains: dict[str, list[Brain]]) -> None:
    image, mask = (values[:, :, 30:50] for values in brains["T2"][0])
    assert not estimate_contrast(image, mask, SPACING_MM, (None, "nothing")).is_sure


def test_constants_are_small() -> None:
    assert CONSTANTS.stat().st_size < 10_000


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data")
@pytest.mark.parametrize(("path", "contrast"), REAL.items())
def test_real_contrasts_are_recognised_without_their_names(path: str, contrast: str) -> None:
    scan = replace(read_volume(SHARED / f"{path}.nii.gz"), source="17.nii.gz")
    estimate = prepare(scan, SPACING_MM).estimate
    assert estimate is not None
    assert (estimate.contrast, estimate.source) == (contrast, "image")


# --- what is made of it


def test_the_user_is_believed_and_told_of_a_doubt(brains: dict[str, list[Brain]]) -> None:
    estimate = contrast_of(*brains["T1"][0], SPACING_MM, "T1.nii.gz", "T2")
    assert (estimate.contrast, estimate.probability, estimate.source) == ("T2", 1.0, "user")
    assert estimate.doubt == "The user says T2, but the image looks like T1."
    assert not contrast_of(*brains["T1"][0], SPACING_MM, "T2.nii.gz", "T1").doubt


@pytest.mark.parametrize(("name", "kind"), [("PD.nii.gz", "PD"), ("swi.nii.gz", "no T1, T2 or FLAIR")])
def test_other_contrasts_are_refused_unless_somebody_insists(
    name: str, kind: str, brains: dict[str, list[Brain]], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = dict.fromkeys(CONTRASTS, 0.05) | {"PD": 0.4, "other": 0.4}
    monkeypatch.setattr("DISYRECore.preprocessing.contrast.contrast_from_image", lambda *brain: seen)
    with pytest.raises(DisyreError, match=ONE_SENTENCE) as refusal:
        contrast_of(*brains["T2"][0], SPACING_MM, name)
    assert str(refusal.value).startswith(f"The scan is {kind} by its file name")
    assert contrast_of(*brains["T2"][0], SPACING_MM, name, "T2").contrast == "T2"


def test_a_name_against_a_sure_image_does_not_refuse_the_scan(brains: dict[str, list[Brain]]) -> None:
    estimate = contrast_of(*brains["T1"][0], SPACING_MM, "PD.nii.gz")
    assert estimate.contrast == "T1"
    assert "taken for T1" in estimate.doubt


def test_t1_with_contrast_agent_is_read_as_t1_and_says_so(cases: dict[str, list[SyntheticCase]]) -> None:
    case = cases["T1"][0]
    prepared = prepare(replace(case.scan, source="T1C.nii.gz"), SPACING_MM, case.brain_mask.voxels > 0)
    assert (prepared.contrast, prepared.named_contrast) == ("T1", "T1C")
    assert any("contrast agent is read as T1" in flag for flag in prepared.flags)
    record = prepared.record()
    assert (record["contrast"], record["read_as"]) == ("T1C", "T1")
    assert record["contrast_probability"] >= SURE
    assert record["contrast_by"] == "file name and image"


# --- learning it


def test_the_constants_can_be_learnt_anew(labelmaps: Path, tmp_path: Path, brains: dict[str, list[Brain]]) -> None:
    fit_contrast.main([str(labelmaps), str(tmp_path / "contrast.json"), "--heads", "2"])
    stored = json.loads((tmp_path / "contrast.json").read_text())
    arrays = {name: np.array(stored[name]) for name in ("mean", "deviation", "weights", "bias")}
    assert tuple(stored["names"]) == tuple(json.loads(CONSTANTS.read_text())["names"])
    learnt = Classifier(tuple(stored["names"]), **arrays)
    probabilities = learnt.probabilities(features(*brains["T1"][0], SPACING_MM))
    assert sum(probabilities.values()) == pytest.approx(1)


def test_signals_are_those_of_the_sequences() -> None:
    """Fluid, grey and white matter in the order that each contrast has."""
    random = np.random.default_rng(0)
    order = {"T1": (0, 1, 2), "T2": (2, 1, 0), "FLAIR": (0, 2, 1)}
    for contrast, rising in order.items():
        signals = np.array([fit_contrast.tissue_signal(contrast, random) for _ in range(50)])
        assert tuple(np.median(signals, axis=0).argsort()) == rising
        assert (signals.max(1) == 1).all()
