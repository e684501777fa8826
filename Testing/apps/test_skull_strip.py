"""The skull strip on its own, with the bundled model: heads of any kind, what is no head, and the command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from support import ROOT

from DISYRECore.apps.cli import main
from DISYRECore.errors import DisyreError
from DISYRECore.evaluation.metrics import dice
from DISYRECore.io.read import read_volume
from DISYRECore.io.volume import Volume
from DISYRECore.io.write import write_volume
from DISYRECore.preprocessing.brain_mask import BrainMask, extract_brain
from DISYRECore.synthesis.anatomy import load_anatomies
from DISYRECore.synthesis.test_set import SyntheticCase, synthesise_case

ANATOMY = ROOT / "Resources" / "Anatomy" / "folded_head.nii.gz"


@pytest.fixture(scope="module")
def head() -> SyntheticCase:
    """A T1 head with a mass in it, 2 mm."""
    bank = load_anatomies([ANATOMY], (236, 244, 220))
    return synthesise_case(bank, 0, 5, contrast="T1", kind="mass", spacing_mm=2.0, head=True)


@pytest.fixture(scope="module")
def scan(head: SyntheticCase, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("head") / "head.nii.gz"
    write_volume(head.scan, path)
    return path


def part(head: SyntheticCase, *cuts: slice) -> tuple[Volume, np.ndarray]:
    """A box of a head and its brain."""
    affine = head.scan.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [cut.start or 0 for cut in cuts]
    return Volume(head.scan.voxels[cuts], affine), head.brain_mask.voxels[cuts] > 0


def test_a_lesion_at_the_border_is_not_cut_away(head: SyntheticCase) -> None:
    found = extract_brain(head.scan)
    brain, rim = head.brain_mask.voxels > 0, head.truth.voxels > 0
    lesion = rim & (ndimage.distance_transform_edt(brain) < 6)
    bright = Volume(np.where(lesion, head.scan.voxels.max(), head.scan.voxels), head.scan.affine)
    kept = extract_brain(bright).mask
    assert (kept & lesion).sum() > 0.9 * (found.mask & lesion).sum()
    assert dice(kept, found.mask) > 0.97


@pytest.mark.parametrize("name", ["half", "slab", "front"])
def test_parts_of_heads_are_refused_or_come_with_a_remark(head: SyntheticCase, name: str) -> None:
    x, y, z = np.argwhere(head.brain_mask.voxels > 0).mean(axis=0).astype(int)
    whole = slice(None)
    cuts = {
        "half": (slice(0, x), whole, whole),
        "slab": (whole, whole, slice(z, z + 25)),
        "front": (whole, slice(y, None), whole),
    }
    scan, truth = part(head, *cuts[name])
    found = mask_or_refusal(scan)
    if isinstance(found, DisyreError):
        assert found.kind == "no_brain"
    else:
        assert any("outside the field of view" in flag for flag in found.flags)
        assert dice(found.mask, truth) > 0.75


def mask_or_refusal(scan: Volume) -> BrainMask | DisyreError:
    try:
        return extract_brain(scan)
    except DisyreError as refusal:
        return refusal


def test_a_head_without_a_face_keeps_its_brain(head: SyntheticCase) -> None:
    brain = head.brain_mask.voxels > 0
    depth = np.add.outer(-np.arange(brain.shape[1]), np.arange(brain.shape[2]))
    voxels = np.where(depth < depth[brain.any(axis=0)].min() - 2, 0, head.scan.voxels)
    assert (voxels != head.scan.voxels).sum() * 0.008 > 300
    found = extract_brain(Volume(voxels, head.scan.affine))
    assert dice(found.mask, brain) > 0.9


def leg() -> np.ndarray:
    """Two cylinders of muscle with fat around them and bone inside."""
    across = np.abs(np.arange(-60, 60))
    distance = np.hypot(np.minimum(across, np.abs(across - 30))[:, None], np.arange(-40, 40)[None])
    rings = np.select([distance < 4, distance < 7, distance < 20, distance < 26], [80, 10, 45, 100], 0)
    return np.repeat(rings[..., None], 90, axis=2) + np.random.default_rng(0).normal(0, 3, (120, 80, 90))


@pytest.mark.parametrize(
    "voxels",
    [leg(), np.random.default_rng(0).normal(size=(100, 100, 80)), np.zeros((60, 60, 60)), np.ones((4, 5, 6))],
    ids=["leg", "noise", "empty", "tiny"],
)
def test_what_is_no_head_is_refused_in_one_sentence(voxels: np.ndarray, tmp_path: Path, capsys) -> None:
    write_volume(Volume(voxels.astype(np.float32), np.diag([2, 2, 2, 1.0])), tmp_path / "scan.nii.gz")
    assert main(["skull-strip", str(tmp_path / "scan.nii.gz"), "-o", str(tmp_path / "mask.nii.gz")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "Traceback" not in said
    assert not (tmp_path / "mask.nii.gz").exists()


def test_the_command_writes_a_mask_on_the_grid_of_the_scan(
    head: SyntheticCase, scan: Path, tmp_path: Path, capsys
) -> None:
    outputs = tmp_path / "mask.nii.gz", tmp_path / "brain.nrrd"
    assert main(["skull-strip", str(scan), "-o", str(outputs[0]), "--brain", str(outputs[1])]) == 0
    mask, brain = (read_volume(path) for path in outputs)
    native = read_volume(scan)
    assert mask.shape == brain.shape == native.shape
    np.testing.assert_allclose(mask.affine, native.affine, atol=1e-4)
    assert dice(mask.voxels > 0, head.brain_mask.voxels > 0) > 0.93
    np.testing.assert_allclose(brain.voxels, native.voxels * (mask.voxels > 0), atol=1e-3)
    assert capsys.readouterr().out.startswith("extracted: ")


def test_the_border_can_be_chosen(scan: Path, tmp_path: Path) -> None:
    sizes = []
    for rim in ("0", "2", "4"):
        assert main(["skull-strip", str(scan), "-o", str(tmp_path / "mask.nii.gz"), "--rim", rim]) == 0
        sizes.append((read_volume(tmp_path / "mask.nii.gz").voxels > 0).sum() * 0.008)
    assert 80 < sizes[1] - sizes[0] < 200
    assert 80 < sizes[2] - sizes[1] < 200


def test_a_stripped_brain_stays_as_it_is(head: SyntheticCase, tmp_path: Path, capsys) -> None:
    brain = head.brain_mask.voxels > 0
    write_volume(Volume(np.where(brain, head.scan.voxels + 1, 0), head.scan.affine), tmp_path / "brain.nii.gz")
    assert main(["skull-strip", str(tmp_path / "brain.nii.gz"), "-o", str(tmp_path / "mask.nii.gz")]) == 0
    assert capsys.readouterr().out.startswith("stripped: ")
    assert ((read_volume(tmp_path / "mask.nii.gz").voxels > 0) == ndimage.binary_fill_holes(brain)).all()


@pytest.mark.parametrize("name", ["mask.txt", "file/mask.nii.gz"])
def test_an_impossible_output_is_refused_before_computing(name: str, tmp_path: Path, capsys) -> None:
    (tmp_path / "file").write_text("")
    assert main(["skull-strip", str(tmp_path / "no scan.nii.gz"), "-o", str(tmp_path / name)]) == 2
    assert "no scan" not in capsys.readouterr().err


def test_no_brain_is_an_error_of_its_own_kind() -> None:
    with pytest.raises(DisyreError) as refusal:
        extract_brain(Volume(leg().astype(np.float32), np.diag([2, 2, 2, 1.0])))
    assert refusal.value.kind == "no_brain"
