from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage
from support import WHITE
from torch import Tensor

from DISYRECore.errors import DisyreError
from DISYRECore.io.read import read_volume
from DISYRECore.synthesis import test_set as testset
from DISYRECore.synthesis.anatomy import AnatomyBank
from DISYRECore.synthesis.images import CONTRASTS, Lattice, Scan, draw_scan, render_scan
from DISYRECore.synthesis.lesions import KINDS, VISIBLE, add_lesions, contrast_name, draw_lesions
from DISYRECore.synthesis.test_set import synthesise_case, write_test_set

SPACING_MM = 3.0
LESIONS = [kind for kind in KINDS if kind != "none"]
BRIGHTER = {"T1": False, "T2": True, "FLAIR": True}


@pytest.fixture(scope="module")
def scans(bank: AnatomyBank) -> dict[str, Scan]:
    """One volume per contrast."""
    lattice = Lattice((44, 56, 48), SPACING_MM)
    parameters = {c: draw_scan(bank, 1, 0, contrasts=(c,), reach_mm=(0.0, 0.0)) for c in BRIGHTER}
    return {contrast: render_scan(bank, p, lattice) for contrast, p in parameters.items()}


def with_lesions(scan: Scan, bank: AnatomyBank, kind: str, contrast: str, seed: int) -> tuple[Tensor, Tensor]:
    return add_lesions(scan, bank.label_values, draw_lesions(kind, contrast, seed), SPACING_MM)


@pytest.mark.parametrize("kind", LESIONS)
@pytest.mark.parametrize("contrast", BRIGHTER)
def test_lesions_change_the_brain_where_the_truth_says_and_fade_out_around_it(
    scans: dict[str, Scan], bank: AnatomyBank, contrast: str, kind: str
) -> None:
    brain, healthy = scans[contrast].mask[0], scans[contrast].image[0]
    for seed in range(6):
        image, truth = with_lesions(scans[contrast], bank, kind, contrast, seed)
        change = (image - healthy).abs()
        assert truth.any()
        assert not (truth & ~brain).any()
        assert not change[~brain].any()
        assert 0 <= image.min() <= image.max() <= 1
        assert (change[truth] > 0).float().mean() > 0.6
        strongest_texture = 2.2
        faint = VISIBLE * abs(draw_lesions(kind, contrast, seed).strength) * strongest_texture
        assert change[~truth].max() <= faint
        far = torch.from_numpy(ndimage.distance_transform_edt(~truth)) * SPACING_MM > 40
        assert not change[far].any()


@pytest.mark.parametrize("kind", LESIONS)
@pytest.mark.parametrize("contrast", BRIGHTER)
def test_lesions_are_dark_on_t1_and_bright_on_t2_and_flair(
    scans: dict[str, Scan], bank: AnatomyBank, contrast: str, kind: str
) -> None:
    for seed in range(6):
        image, truth = with_lesions(scans[contrast], bank, kind, contrast, seed)
        change = float((image - scans[contrast].image[0])[truth].mean())
        assert (change > 0.01) if BRIGHTER[contrast] else (change < -0.01)


def test_the_same_seed_gives_the_same_lesions(scans: dict[str, Scan], bank: AnatomyBank) -> None:
    for kind in LESIONS:
        one, two, other = (with_lesions(scans["T2"], bank, kind, "T2", seed) for seed in (3, 3, 4))
        assert torch.equal(one[0], two[0])
        assert torch.equal(one[1], two[1])
        assert not torch.equal(one[1], other[1])
    assert draw_lesions("mass", "T1", 5) == draw_lesions("mass", "T1", 5)


def test_a_healthy_case_stays_as_it_is(scans: dict[str, Scan], bank: AnatomyBank) -> None:
    image, truth = with_lesions(scans["T1"], bank, "none", "T1", 0)
    assert torch.equal(image, scans["T1"].image[0])
    assert not truth.any()


def test_lesions_have_about_the_size_that_was_drawn(scans: dict[str, Scan], bank: AnatomyBank) -> None:
    """The diameter of the ball of equal volume, on average over 12 lesions; brain and ventricles cut some off."""
    found, drawn = [], []
    for seed in range(12):
        parameters = draw_lesions("mass", "T2", seed)
        _, truth = add_lesions(scans["T2"], bank.label_values, parameters, SPACING_MM)
        found.append((6 / np.pi * float(truth.sum())) ** (1 / 3) * SPACING_MM)
        drawn += parameters.diameters_mm
    assert np.corrcoef(found, drawn)[0, 1] > 0.7
    assert 0.6 < np.mean(found) / np.mean(drawn) < 1.1


def test_lesions_are_strong_inside_and_fade_out_over_their_rim(scans: dict[str, Scan], bank: AnatomyBank) -> None:
    scan, levels = scans["FLAIR"], []
    for seed in range(6):
        parameters = replace(draw_lesions("mass", "FLAIR", seed), strength=0.3, core=0.2)
        image, truth = add_lesions(scan, bank.label_values, parameters, SPACING_MM)
        change, allowed = (image - scan.image[0]).numpy(), scan.mask[0].numpy()
        outside = ndimage.distance_transform_edt(~truth) * allowed
        shells = truth.numpy(), (outside > 0) & (outside <= 1), (outside > 1) & (outside <= 2)
        levels.append([change[shell].mean() for shell in shells])
    inside, rim, beyond = np.mean(levels, 0)
    assert inside > 2 * rim > 2 * beyond >= 0


def test_plaques_are_several_and_lie_in_white_matter(scans: dict[str, Scan], bank: AnatomyBank) -> None:
    scan = scans["FLAIR"]
    white = (scan.classes[0] == bank.label_values.index(WHITE)).numpy()
    for seed in range(4):
        parameters = draw_lesions("plaques", "FLAIR", seed)
        assert 4 <= len(parameters.diameters_mm) <= 12
        _, truth = add_lesions(scan, bank.label_values, parameters, SPACING_MM)
        labels, count = ndimage.label(truth.numpy())
        assert count >= 2
        assert all(white[labels == k].any() for k in range(1, count + 1))


# Test sets


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testset, "_BRAIN_MM", (40, 56, 48))


def test_a_case_has_its_volumes_on_one_grid_in_ras(bank: AnatomyBank) -> None:
    case = synthesise_case(bank, 2, 7, contrast="T2", kind="mass", spacing_mm=4.0)
    for volume in (case.scan, case.truth, case.brain_mask):
        assert volume.shape == (40, 48, 40)
        assert np.array_equal(volume.affine, case.scan.affine)
    assert case.scan.spacing_mm == pytest.approx((4, 4, 4))
    assert case.scan.affine @ [19.5, 23.5, 19.5, 1] == pytest.approx([0, 0, 0, 1])
    brain, truth = case.brain_mask.voxels > 0, case.truth.voxels > 0
    assert truth.any()
    assert not (truth & ~brain).any()
    assert not case.scan.voxels[~brain].any()
    assert case.name == "case-002_T2_mass"


def test_healthy_and_diseased_cases_of_one_index_share_their_anatomy(bank: AnatomyBank) -> None:
    healthy, ill = (
        synthesise_case(bank, 1, 7, contrast="T1", kind=kind, spacing_mm=4.0) for kind in ("none", "infarct")
    )
    same, brain, truth = (healthy.scan.voxels == ill.scan.voxels), ill.brain_mask.voxels > 0, ill.truth.voxels > 0
    assert np.array_equal(healthy.brain_mask.voxels, ill.brain_mask.voxels)
    assert same[~brain].all()
    assert same[brain].mean() > 0.5
    assert same[truth].mean() < 0.5
    assert healthy.truth.voxels.max() == 0


@pytest.mark.usefixtures("_small")
def test_a_test_set_is_the_same_every_time(labelmaps: Path, tmp_path: Path) -> None:
    maps = sorted(labelmaps.glob("*.nii.gz"))
    for name in ("one", "two"):
        write_test_set(tmp_path / name, maps, 5, seed=11)
    cases = json.loads((tmp_path / "one" / "dataset.json").read_text())["cases"]
    assert [case["contrast"] for case in cases] == ["T1", "T2", "FLAIR", "T1", "T2"]
    assert [case["kind"] for case in cases] == ["mass"] * 3 + ["infarct"] * 2
    for case in cases:
        for image in ("scan", "truth", "brain_mask"):
            one, two = (read(tmp_path / name / case["name"] / f"{image}.nii.gz") for name in ("one", "two"))
            assert one.tobytes() == two.tobytes()
    scans = [read(tmp_path / "one" / case["name"] / "scan.nii.gz") for case in cases]
    assert not np.array_equal(scans[0], scans[3])


def read(path: Path) -> np.ndarray:
    """Voxels with the type they have on disk."""
    return np.asarray(nib.load(path).dataobj)


@pytest.mark.usefixtures("_small")
def test_another_seed_makes_another_test_set(labelmaps: Path, tmp_path: Path) -> None:
    maps = sorted(labelmaps.glob("*.nii.gz"))
    for seed in (1, 2):
        write_test_set(tmp_path / str(seed), maps, 1, seed=seed)
    one, two = (read_volume(tmp_path / str(s) / "case-000_T1_mass" / "scan.nii.gz") for s in (1, 2))
    assert not np.array_equal(one.voxels, two.voxels)


@pytest.mark.parametrize("wrong", [{"contrasts": ("T3",)}, {"kinds": ("mass", "fever")}])
def test_unknown_contrasts_and_kinds_are_refused(
    labelmaps: Path, tmp_path: Path, wrong: dict[str, tuple[str, ...]]
) -> None:
    with pytest.raises(DisyreError, match="choose from"):
        write_test_set(tmp_path / "set", sorted(labelmaps.glob("*.nii.gz")), 1, 0, **wrong)
    assert not (tmp_path / "set").exists()


def test_a_test_set_needs_label_maps_and_a_place(labelmaps: Path, tmp_path: Path) -> None:
    with pytest.raises(DisyreError, match="label maps"):
        write_test_set(tmp_path / "set", [], 1, 0)
    assert not (tmp_path / "set").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(DisyreError, match="output folder"):
        write_test_set(tmp_path / "file", sorted(labelmaps.glob("*.nii.gz"))[:1], 1, 0)


def test_contrasts_are_named() -> None:
    assert [contrast_name(torch.tensor(i)) for i in range(len(CONTRASTS))] == list(CONTRASTS)
