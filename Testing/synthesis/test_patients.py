"""Synthetic patients: drawn, displaced, painted, scanned and written."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from support import SPACING_MM, ball

from DISYRECore.apps.cli import BAD_INPUT, main
from DISYRECore.errors import DisyreError
from DISYRECore.evaluation.datasets import read_dataset
from DISYRECore.io.labels import CEREBRAL_CORTEX, CEREBRAL_WHITE, CSF_LABEL, MERGED_INNER
from DISYRECore.io.volume import Volume
from DISYRECore.io.write import write_volume
from DISYRECore.synthesis import patients
from DISYRECore.synthesis.anatomy import AnatomyBank
from DISYRECore.synthesis.growth import (
    Push,
    Subject,
    arrival_times,
    displacement,
    healthy_subject,
    push_aside,
    time_of_volume,
)
from DISYRECore.synthesis.images import Lattice
from DISYRECore.synthesis.pathology import KINDS, LARGEST_SHARE, Disease, Patient, make_patient
from DISYRECore.synthesis.patients import (
    CONTRASTS,
    Acquisition,
    PatientParameters,
    RenderedPatient,
    acquire,
    draw_geometry,
    draw_patient,
    find_lesion_masks,
    ideal_image,
    render_patient,
    slice_profiles,
    write_patients,
)

VOXEL_ML = SPACING_MM**3 / 1000
STILL = (0.0,) * 6


def rendered(bank: AnatomyBank, parameters: PatientParameters) -> RenderedPatient:
    return render_patient(bank, parameters, lattice_mm=SPACING_MM)


def with_grids(one_grid: bool) -> PatientParameters:
    return next(p for seed in range(50) if (p := draw_patient(seed, "glioma")).one_grid is one_grid)


@pytest.fixture(scope="module")
def subject(bank: AnatomyBank) -> Subject:
    geometry = draw_geometry(bank, draw_patient(3, "glioma"))
    return healthy_subject(bank, geometry, Lattice((88, 108, 88), SPACING_MM))


def diseased(subject: Subject, kind: str, variant: str = "", core: float = 0.6) -> Patient:
    return make_patient(subject, Disease(kind, variant, volume_ml=30.0, core=core, push=0.6, strength=0.6, seed=5))


def ideal(patient: Patient, contrast: str) -> np.ndarray:
    plain = replace(draw_patient(0, "glioma").scans[contrast], flatness=0.0, seed=4)
    return ideal_image(patient, contrast, plain, np.random.default_rng(0))


class TestDrawing:
    def test_the_same_seed_draws_the_same_patient(self) -> None:
        assert draw_patient(7, "ms") == draw_patient(7, "ms")
        assert draw_patient(7, "ms") != draw_patient(8, "ms")

    @pytest.mark.parametrize("kind", KINDS)
    def test_volumes_and_slices_stay_within_limits(self, kind: str) -> None:
        drawn = [draw_patient(seed, kind) for seed in range(60)]
        thickness = [scan.thickness_mm for p in drawn for scan in p.scans.values()]
        assert min(p.disease.volume_ml for p in drawn) >= 2
        assert max(p.disease.volume_ml for p in drawn) <= 250
        assert min(thickness) == 1
        assert 6 < max(thickness) <= 8


class TestRendering:
    @pytest.mark.parametrize("kind", KINDS)
    def test_truth_lies_in_the_brain_and_within_limits(self, bank: AnatomyBank, kind: str) -> None:
        patient = render_patient(bank, draw_patient(11, kind), ("FLAIR",), lattice_mm=SPACING_MM)
        scan = patient.scans["FLAIR"]
        lesion, brain = scan.truth.voxels > 0, scan.brain.voxels > 0
        assert lesion.any()
        assert not (lesion & ~brain).any()
        assert lesion.sum() <= 1.1 * LARGEST_SHARE * brain.sum()
        assert not scan.image.voxels[~brain].any()
        assert scan.image.voxels.dtype == np.int16

    def test_contrasts_on_one_grid_show_one_anatomy_and_can_be_had_alone(self, bank: AnatomyBank) -> None:
        parameters = with_grids(True)
        scans = rendered(bank, parameters).scans
        for scan in scans.values():
            np.testing.assert_array_equal(scan.truth.voxels, scans["T1"].truth.voxels)
            np.testing.assert_array_equal(scan.brain.voxels, scans["T1"].brain.voxels)
            np.testing.assert_array_equal(scan.image.affine, scans["T1"].image.affine)
        alone = render_patient(bank, parameters, ("FLAIR",), lattice_mm=SPACING_MM).scans["FLAIR"]
        np.testing.assert_array_equal(alone.image.voxels, scans["FLAIR"].image.voxels)

    def test_own_grids_show_one_anatomy_where_the_head_has_moved(self, bank: AnatomyBank) -> None:
        scans = rendered(bank, with_grids(False)).scans
        volumes = [float(scan.truth.voxels.sum()) * scan.truth.voxel_ml for scan in scans.values()]
        assert len({scan.image.affine.tobytes() for scan in scans.values()}) == 3
        assert max(volumes) < 1.4 * min(volumes)

    def test_a_head_keeps_the_brain(self, bank: AnatomyBank) -> None:
        drawn = [draw_patient(2, "resection", head) for head in (False, True)]
        brain, head = (render_patient(bank, one, ("T1",), lattice_mm=SPACING_MM) for one in drawn)
        assert head.lesion_ml == pytest.approx(brain.lesion_ml)
        scan = head.scans["T1"]
        assert (scan.image.voxels[scan.brain.voxels == 0] > 30).any()


class TestMassEffect:
    def test_tissue_moves_away_and_not_at_the_skull(self) -> None:
        shape, centre = (60, 60, 60), (30, 30, 40)
        place = np.indices(shape).astype(np.float32)
        skull = np.maximum(56 - np.sqrt(((place - 29.5) ** 2).sum(0)) * SPACING_MM, 0)
        side, height = (place[2] - 29.5) * SPACING_MM, (place[0] - 29.5) * SPACING_MM
        moved = displacement([Push(centre, 20.0, 0.8)], skull, side, height, SPACING_MM)
        away = place - np.array(centre)[:, None, None, None]
        assert ((moved * away).sum(0) >= -1e-4).all()
        assert np.abs(moved[:, skull == 0]).max() == 0
        size = np.sqrt((moved**2).sum(0))
        assert 5 < size.max() < 20
        assert size[30, 30, 16] < 0.5 * size[30, 30, 51]

    def test_the_ventricle_beside_a_mass_gives_way(self, subject: Subject) -> None:
        before = np.argwhere(subject.within(MERGED_INNER) & (subject.coordinates[2] > 0)).mean(0)
        z, y, x = before + np.array([0, 0, 10 * np.sign(before[2] - 43.5)])
        displaced, largest = push_aside(subject, [Push((z, y, x), 16.0, 0.8)])
        after = np.argwhere(displaced.within(MERGED_INNER) & (displaced.coordinates[2] > 0)).mean(0)
        assert largest > 5
        assert np.linalg.norm(after - (z, y, x)) > np.linalg.norm(before - (z, y, x)) + 0.5
        assert (displaced.skull != subject.skull).mean() < 1e-4
        assert displaced.skull[subject.skull].all()


class TestPlace:
    def test_a_front_fills_the_volume_wanted(self) -> None:
        everywhere = np.ones((40, 40, 40), np.float32)
        times = arrival_times(everywhere, np.array([[20, 20, 20]]), SPACING_MM)
        end = time_of_volume(times, everywhere > 0, 30.0, SPACING_MM)
        assert (times <= end).sum() * VOXEL_ML == pytest.approx(30, rel=0.02)
        assert end == pytest.approx(np.cbrt(30000 * 3 / (4 * np.pi)), rel=0.1)

    def test_a_front_does_not_cross_a_wall(self) -> None:
        speed = np.ones((20, 20, 20), np.float32)
        speed[:, :, 10] = 0
        times = arrival_times(speed, np.array([[10, 10, 4]]), 1.0)
        assert times[:, :, 11:].min() > 1000

    @pytest.mark.parametrize(
        ("kind", "variant"),
        [
            ("glioma", "high_grade"),
            ("haemorrhage", "acute"),
            ("resection", ""),
            ("infarct", "acute"),
            ("leukoaraiosis", ""),
        ],
    )
    def test_the_volume_is_about_what_was_wanted(self, subject: Subject, kind: str, variant: str) -> None:
        patient = diseased(subject, kind, variant)
        assert (patient.anomalous() > 0.5).sum() * VOXEL_ML == pytest.approx(30, rel=0.45)

    def test_oedema_follows_white_matter(self, subject: Subject) -> None:
        patient = diseased(subject, "glioma", "high_grade", core=0.3)
        oedema = patient.tissues[0].share > 0.5
        assert patient.tissues[0].appearance == "oedema"
        assert patient.subject.within(CEREBRAL_WHITE)[oedema].mean() > 0.8
        assert not (oedema & patient.subject.within((*MERGED_INNER, CSF_LABEL, *CEREBRAL_CORTEX))).any()

    def test_a_mask_of_mni_space_lands_on_its_side(self, subject: Subject) -> None:
        voxels = np.zeros((182, 218, 182), np.uint8)
        voxels[106:126, 96:116, 80:100] = 1  # R 25, A -20, S 18 mm
        affine = np.eye(4)
        affine[:3, 3] = (-91, -126, -72)
        disease = Disease("infarct", "acute", 8.0, 1.0, 0.0, 0.5, 1)
        patient = make_patient(subject, disease, [Volume(voxels, affine, "square.nii.gz")])
        found = subject.coordinates[:, patient.anomalous() > 0.5].mean(1)
        assert patient.source == "square.nii.gz"
        assert found[2] > 10
        assert abs(found[0] - 8) < 15


class TestSigns:
    @pytest.mark.parametrize(("kind", "variant"), [("glioma", "low_grade"), ("infarct", "acute"), ("ms", "")])
    def test_water_is_bright_on_t2_and_flair_and_not_on_t1(self, subject: Subject, kind: str, variant: str) -> None:
        patient = diseased(subject, kind, variant)
        inside = patient.anomalous() > 0.9
        white = patient.subject.within(CEREBRAL_WHITE) & (patient.anomalous() == 0)
        images = {contrast: ideal(patient, contrast) for contrast in CONTRASTS}
        change = {contrast: image[inside].mean() / image[white].mean() for contrast, image in images.items()}
        assert change["T1"] < 0.95
        assert change["T2"] > 1.2
        assert change["FLAIR"] > 1.2

    @pytest.mark.parametrize(
        ("variant", "t1", "t2"), [("acute", 0, -1), ("early_subacute", 1, -1), ("late_subacute", 1, 1)]
    )
    def test_blood_goes_through_stages(self, subject: Subject, variant: str, t1: int, t2: int) -> None:
        patient = diseased(subject, "haemorrhage", variant)
        clot = patient.tissues[-1].share > 0.9
        grey = patient.subject.within(CEREBRAL_CORTEX) & (patient.anomalous() == 0)
        for contrast, sign in (("T1", t1), ("T2", t2)):
            image = ideal(patient, contrast)
            change = image[clot].mean() / image[grey].mean() - 1
            assert np.sign(np.trunc(change / 0.15)) == sign

    def test_a_cavity_is_like_fluid_with_a_bright_rim(self, subject: Subject) -> None:
        patient = diseased(subject, "resection")
        image = ideal(patient, "FLAIR")
        hole = patient.tissues[1].share > 0.9
        rim = (patient.tissues[0].share > 0.9) & (patient.tissues[1].share == 0)
        white = image[patient.subject.within(CEREBRAL_WHITE) & (patient.anomalous() == 0)].mean()
        assert image[hole].mean() < 0.7 * white
        assert image[rim].mean() > 1.2 * white


class TestScanning:
    def test_profiles_sum_to_one_and_leave_gaps(self) -> None:
        profiles = slice_profiles(10, 6.0, 60, 1.0, 4.0, 0.3)
        np.testing.assert_allclose(profiles.sum(1), 1, rtol=1e-5)
        assert profiles.sum(0).min() < 0.1 * profiles.sum(0).max()

    @pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
    @pytest.mark.parametrize("thickness", [1.0, 3.3, 8.0])
    def test_a_mark_stays_in_its_place(self, plane: str, thickness: float) -> None:
        shape, index = (60, 70, 50), (41.5, 19.5, 34.5)
        mark = (np.array(index) - (np.array(shape) - 1) / 2)[::-1] * SPACING_MM
        field = ball(shape, index, 5).numpy().astype(np.float32)
        scan, affine = acquire(
            field, SPACING_MM, Acquisition(plane, thickness, 0.0, 0.95, 0.4, 0.0, 0.0, 0.0, STILL, 0)
        )
        weights = scan.ravel() / scan.sum()
        centre = affine[:3, :3] @ (np.indices(scan.shape).reshape(3, -1) @ weights) + affine[:3, 3]
        assert np.abs(centre - mark).max() < max(thickness, SPACING_MM) / 2
        steps = np.linalg.norm(affine[:3, :3], axis=0)
        np.testing.assert_allclose(steps, (0.95, 0.95, thickness), rtol=1e-6)

    def test_a_moved_head_moves_in_the_world(self) -> None:
        still = Acquisition("axial", 3.0, 0.0, 1.0, 0.4, 0.0, 0.0, 0.0, STILL, 0)
        field = np.ones((20, 20, 20), np.float32)
        before = acquire(field, 2.0, still)[1]
        after = acquire(field, 2.0, replace(still, moved=(0.0, 0.0, 0.0, 4.0, 0.0, -2.0)))[1]
        np.testing.assert_allclose((after - before)[:3, 3], (4, 0, -2))


class TestFiles:
    def test_patients_are_written_and_read(
        self, labelmaps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(patients, "render_patient", partial(render_patient, lattice_mm=SPACING_MM))
        monkeypatch.setattr(patients, "_WIDENED", 0)
        maps = ["--labelmaps", str(labelmaps), "--maps", "head_0.nii.gz"]
        asked = ["--patients", "--count", "2", "--seed", "2", "--kinds", "ms", "resection"]
        assert main(["synthesize", "-o", str(tmp_path), *maps, *asked]) == 0
        cases = read_dataset(tmp_path).cases
        assert [case.name for case in cases] == [f"sub-00{n}_{c}" for n in (1, 2) for c in sorted(CONTRASTS)]
        assert {case.subject for case in cases} == {"sub-001", "sub-002"}
        for case in cases:
            scan, truth, brain = case.load()
            assert truth.any()
            assert brain is not None
            assert scan.shape == truth.shape
        own = {path.parent.name for path in tmp_path.glob("sub-*/mask_T1.nii.gz")}
        assert own == {"sub-002"}
        told = json.loads((tmp_path / "sub-002" / "patient.json").read_text(encoding="utf-8"))
        assert told["disease"]["kind"] == "resection"
        assert told["labelmap"] == "head_0.nii.gz"

    def test_only_even_masks_are_taken(self, tmp_path: Path) -> None:
        folder = tmp_path / "lesion_masks_stroke_mni"
        folder.mkdir()
        for number in range(1, 7):
            write_volume(Volume(np.ones((5, 5, 5), np.uint8), np.eye(4)), folder / f"sub-{number}_lesion.nii.gz")
        names = [path.name for path in find_lesion_masks(tmp_path, "infarct")]
        assert names == [f"sub-{number}_lesion.nii.gz" for number in (2, 4, 6)]
        assert find_lesion_masks(tmp_path, "glioma") == []

    def test_nothing_is_written_for_unknown_kinds_and_missing_masks(self, labelmaps: Path, tmp_path: Path) -> None:
        maps, out = sorted(labelmaps.glob("*.nii.gz")), tmp_path / "out"
        with pytest.raises(DisyreError, match="'stroke' is not known; choose from glioma"):
            write_patients(out, maps, 1, 0, ("stroke",))
        with pytest.raises(DisyreError, match="holds no lesion masks for 'ms'"):
            write_patients(out, maps, 1, 0, ("ms",), tmp_path)
        assert not out.exists()

    @pytest.mark.parametrize("wrong", [["--patients", "--healthy"], ["--lesion-masks", "masks"]])
    def test_options_that_do_not_go_together(
        self, wrong: list[str], labelmaps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["synthesize", "-o", str(tmp_path), "--labelmaps", str(labelmaps), *wrong]) == BAD_INPUT
        assert "leave" in capsys.readouterr().err
