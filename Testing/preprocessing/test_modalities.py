"""Liver CT and ultrasound: reading, preparing, the whole command, and training on scans of one's own."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image
from support import ONE_SENTENCE, light_noise_training, with_settings

from DISYRECore.apps.cli import main
from DISYRECore.corruption.synomaly_noise import NoiseSettings
from DISYRECore.detection.detector import Detector
from DISYRECore.errors import DisyreError
from DISYRECore.evaluation.metrics import average_precision
from DISYRECore.io.grid import Grid
from DISYRECore.io.read import read_volume
from DISYRECore.io.volume import Volume
from DISYRECore.io.write import write_volume
from DISYRECore.models.diffusion_unet import DiffusionSettings
from DISYRECore.preprocessing import modalities
from DISYRECore.preprocessing.modalities import find_modality, modality_names
from DISYRECore.preprocessing.modalities.liver_ct import prepare_liver
from DISYRECore.preprocessing.modalities.ultrasound import (
    BURNED_IN,
    FRAME_POINTS,
    find_clips,
    frame_grid,
    prepare_ultrasound,
    read_frame_mask,
    read_frames,
)
from DISYRECore.training.config import TrainingConfig
from DISYRECore.training.data import TrainingData
from DISYRECore.training.tasks.anofpdm import AnoFPDMSettings, AnoFPDMTask
from DISYRECore.training.tasks.base.noise import labels
from DISYRECore.training.tasks.base.sources import Sources
from DISYRECore.training.tasks.synomaly import SynomalySettings, SynomalyTask
from DISYRECore.training.trainer import Trainer

CPU = torch.device("cpu")
AFFINE = np.array([[-1.5, 0, 0, 60], [0, -1.5, 0, 70], [0, 0, 5, -20], [0, 0, 0, 1.0]])
CT_SHAPE = (80, 72, 6)
LIVER_CT, ULTRASOUND = "liver-ct", "ultrasound"


def disc(shape: tuple[int, ...], centre: tuple[float, float], radius: float) -> np.ndarray:
    x, y = np.mgrid[: shape[0], : shape[1]]
    inside = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius**2
    return np.broadcast_to(inside.reshape(inside.shape + (1,) * (len(shape) - 2)), shape)


def liver(seed: int = 0, lesion_hu: float | None = None) -> tuple[Volume, np.ndarray, np.ndarray]:
    """A body with a liver of about 100 HU, bone and air beside it; the scan, the liver mask and the lesion mask."""
    random = np.random.default_rng(seed)
    voxels = np.full(CT_SHAPE, -1000.0)
    voxels[disc(CT_SHAPE, (40, 36), 33)] = 40
    organ = disc(CT_SHAPE, (34 + random.uniform(-2, 2), 36), 20)
    voxels[organ] = 100
    voxels[disc(CT_SHAPE, (66, 36), 4)] = 900
    lesion = disc(CT_SHAPE, (30, 40), 6) & (np.arange(CT_SHAPE[2]) >= 3)
    if lesion_hu is not None:
        voxels[lesion] = lesion_hu
    noisy = voxels + 6 * random.standard_normal(CT_SHAPE)
    return Volume(noisy.astype(np.float32), AFFINE), organ, lesion


def frame(seed: int = 0, plaque: bool = False) -> np.ndarray:
    """A vessel in speckle, 180 x 120 pixels (X, Y), uint8."""
    random = np.random.default_rng(seed)
    tissue = 90 * random.rayleigh(0.8, (180, 120))
    vessel, wall = (disc((180, 120), (90, 60), radius) for radius in (34, 40))
    picture = np.where(vessel, 12.0, np.where(wall, 170.0, tissue))
    if plaque:
        picture[disc((180, 120), (76, 72), 12)] = 250
    return np.clip(picture, 0, 255).astype(np.uint8)


def save_picture(pixels: np.ndarray, path: Path, mode: str = "L") -> None:
    Image.fromarray(pixels.T).convert(mode).save(path)


# Liver CT


def test_the_liver_is_windowed_and_everything_else_is_0() -> None:
    scan, organ, _ = liver()
    made = prepare_liver(scan, 3.0, organ)
    image, mask = made.tensors()
    assert made.contrast == "CT"
    assert not image[~mask].any()
    assert float(image[mask].median()) == pytest.approx(100 / 150, abs=0.02)
    assert float(mask.sum()) * 0.027 == pytest.approx(made.brain.volume_ml, rel=0.1)
    np.testing.assert_array_equal(made.native_mask, organ)
    assert {"intensity_low": 0.0, "intensity_high": 150.0}.items() <= made.record().items()
    json.dumps(made.record())


def test_a_marked_voxel_of_the_liver_comes_back_at_its_place() -> None:
    scan, organ, lesion = liver(lesion_hu=0)
    made = prepare_liver(scan, 2.0, organ)
    back = made.intensities.restore(made.to_native(made.tensors()[0]).voxels)
    inner = lesion & organ & (np.arange(CT_SHAPE[2]) >= 4)
    assert np.median(back[inner]) == pytest.approx(0, abs=10)
    assert np.median(back[organ & ~lesion]) == pytest.approx(100, abs=5)


def test_a_ct_without_a_liver_mask_or_of_no_liver_is_refused_in_one_sentence() -> None:
    scan, organ, _ = liver()
    raw = replace(scan, voxels=scan.voxels + 1024)
    for volume, mask in ((scan, None), (raw, organ), (scan, np.zeros_like(organ)), (scan, organ[1:])):
        with pytest.raises(DisyreError, match=ONE_SENTENCE):
            prepare_liver(volume, 3.0, mask)


# Reading ultrasound


def test_pictures_dicom_and_nrrd_give_the_same_frame(tmp_path: Path) -> None:
    pixels = frame()
    save_picture(pixels, tmp_path / "grey.png")
    save_picture(pixels, tmp_path / "colour.png", "RGB")
    image = sitk.GetImageFromArray(pixels.T)
    image.SetSpacing((0.1, 0.1))
    sitk.WriteImage(image, str(tmp_path / "one.nrrd"))
    sitk.WriteImage(sitk.JoinSeries(image), str(tmp_path / "one.dcm"))
    for name in ("grey.png", "colour.png", "one.nrrd", "one.dcm"):
        volume = read_frames(tmp_path / name)
        assert volume.shape == (180, 120, 1), name
        np.testing.assert_allclose(volume.voxels[..., 0], pixels, atol=1)
    assert read_frames(tmp_path / "one.nrrd").spacing_mm == pytest.approx((0.1, 0.1, 1.0))
    assert read_frames(tmp_path / "grey.png").spacing_mm == (1, 1, 1)


def test_clips_are_read_from_files_and_from_folders_of_pictures(tmp_path: Path) -> None:
    pixels = np.stack([frame(seed) for seed in range(4)], axis=2)
    folder = tmp_path / "clip"
    folder.mkdir()
    for index in range(4):
        save_picture(pixels[..., index], folder / f"{index:03d}.png")
    image = sitk.GetImageFromArray(pixels.T)
    for suffix in ("nrrd", "dcm", "nii.gz"):
        sitk.WriteImage(image, str(tmp_path / f"clip.{suffix}"))
    colour = sitk.GetImageFromArray(np.repeat(pixels.T[..., None], 3, axis=-1), isVector=True)
    sitk.WriteImage(colour, str(tmp_path / "colour.nrrd"))
    assert find_clips(folder) == [folder]
    assert len(find_clips(tmp_path)) == 5
    for clip in find_clips(tmp_path):
        np.testing.assert_allclose(read_frames(clip).voxels, pixels, atol=1)


@pytest.mark.parametrize("name", ["missing.png", "broken.png", "broken.nrrd", "flat.png", "sizes", "empty"])
def test_what_is_no_clip_is_refused_in_one_sentence(tmp_path: Path, name: str) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    (tmp_path / "broken.nrrd").write_bytes(b"no picture")
    save_picture(np.full((20, 20), 7, np.uint8), tmp_path / "flat.png")
    (tmp_path / "sizes").mkdir()
    (tmp_path / "empty").mkdir()
    save_picture(frame(), tmp_path / "sizes" / "a.png")
    save_picture(frame()[:-1], tmp_path / "sizes" / "b.png")
    with pytest.raises(DisyreError, match=ONE_SENTENCE):
        read_frames(tmp_path / name)
    if name in ("missing.png", "empty"):
        with pytest.raises(DisyreError, match=ONE_SENTENCE):
            find_clips(tmp_path / name)


def test_a_mask_of_one_frame_is_that_of_all(tmp_path: Path) -> None:
    vessel = disc((180, 120), (90, 60), 40)
    save_picture(255 * vessel.astype(np.uint8), tmp_path / "mask.png")
    mask = read_frame_mask(tmp_path / "mask.png", Grid((180, 120, 5), np.eye(4)))
    assert mask.shape == (180, 120, 5)
    assert all(np.array_equal(mask[..., z], vessel) for z in range(5))
    with pytest.raises(DisyreError, match=ONE_SENTENCE):
        read_frame_mask(tmp_path / "mask.png", Grid((120, 180, 5), np.eye(4)))


# Preparing ultrasound


@pytest.mark.parametrize("shape", [(180, 120, 1), (60, 200, 3), (128, 128, 2), (500, 333, 1)])
def test_frames_get_their_size_and_keep_their_place(shape: tuple[int, int, int]) -> None:
    affine = np.array([[-0.2, 0, 0, 5], [0, -0.2, 0, 9], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    grid = frame_grid(Grid(shape, affine))
    assert max(grid.shape[:2]) == FRAME_POINTS
    assert grid.shape[2] == shape[2]
    middles = [g.affine @ [*((np.array(g.shape) - 1) / 2), 1] for g in (grid, Grid(shape, affine))]
    np.testing.assert_allclose(*middles, atol=1e-6)


def test_frames_are_prepared_one_by_one_and_come_back() -> None:
    clip = Volume(np.stack([frame(0), frame(1, plaque=True)], 2).astype(np.float32), np.diag([-1.0, -1, 1, 1]))
    made = prepare_ultrasound(clip, 1.0)
    image, mask = made.tensors()
    assert image.shape == (2, round(120 / 180 * FRAME_POINTS), FRAME_POINTS)
    assert mask.all()
    back = made.intensities.restore(made.to_native(image).voxels)
    assert abs(back - clip.voxels)[disc(clip.shape, (90, 60), 30)].mean() < 3
    plaque = disc((180, 120), (76, 72), 10)
    assert back[plaque][:, 1].min() > 200 > 100 > back[plaque & disc((180, 120), (90, 60), 30)][:, 0].max()


def test_a_single_frame_and_unmasked_pixels_are_remarked_on() -> None:
    still = Volume(frame()[..., None].astype(np.float32), np.eye(4))
    flags = prepare_ultrasound(still, 1.0).flags
    assert BURNED_IN in flags
    assert any("single frame" in flag for flag in flags)
    masked = prepare_ultrasound(still, 1.0, disc(still.shape, (90, 60), 40))
    assert BURNED_IN not in masked.flags
    assert not masked.tensors()[0][~masked.tensors()[1]].any()
    assert masked.image.shape == (FRAME_POINTS, FRAME_POINTS, 1)


# The whole command


def detect(*arguments: str | Path) -> int:
    return main(["detect", *(str(argument) for argument in arguments)])


def test_a_plaque_in_a_picture_is_found_reported_and_listed(tmp_path: Path) -> None:
    save_picture(frame(plaque=True), tmp_path / "vessel.png")
    save_picture(255 * disc((180, 120), (90, 60), 33).astype(np.uint8), tmp_path / "mask.png")
    options = ["--method", "z-score", "--modality", ULTRASOUND, "--mask", tmp_path / "mask.png"]
    assert detect(tmp_path / "vessel.png", "-o", tmp_path / "out", *options) == 0
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / "anomalies.nii.gz")))[0].T > 0
    truth = disc((180, 120), (76, 72), 12) & disc((180, 120), (90, 60), 33)
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.8
    with (tmp_path / "out" / "findings.csv").open() as file:
        assert {row["side"] for row in csv.DictReader(file)} == {""}
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (record["modality"], record["scan"]["contrast"]) == (ULTRASOUND, "US")
    html = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Not a medical device" in html
    assert "single frame" in html
    assert "Frame 1" in html
    assert "Sagittal" not in html
    assert "convention" not in html
    assert not re.findall(r"https?://(?!www\.w3\.org)", html)


def test_clips_of_a_folder_are_detected_one_by_one(tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    (folder / "one").mkdir(parents=True)
    for index in range(3):
        save_picture(frame(index), folder / "one" / f"{index}.png")
    image = sitk.GetImageFromArray(np.stack([frame(seed).T for seed in range(2)]))
    sitk.WriteImage(image, str(folder / "two.nrrd"))
    assert detect(folder, "-o", tmp_path / "out", "--method", "z-score", "--modality", ULTRASOUND) == 0
    for name, frames in (("one", 3), ("two", 2)):
        assert sitk.ReadImage(str(tmp_path / "out" / name / "score.nii.gz")).GetSize() == (180, 120, frames)


def write_liver(folder: Path, seed: int, lesion_hu: float | None = None) -> None:
    scan, organ, lesion = liver(seed, lesion_hu)
    for part, volume in (("images", scan), ("masks", Volume(organ, AFFINE)), ("lesions", Volume(lesion, AFFINE))):
        (folder / part).mkdir(exist_ok=True, parents=True)
        if part != "lesions" or lesion_hu is not None:
            write_volume(volume, folder / part / f"{seed}.nii.gz")


NETWORK = DiffusionSettings((8, 16), blocks=1, groups=4, head_width=8, fold=2)
NOISE = NoiseSettings(sigmas=(1.0,), threshold=150.0, directions=(-1,))
OF_IMAGES = {"network": NETWORK, "labels": "lesions", "slice_shape": (32, 32)}
LIVER = TrainingConfig(
    name="tiny-liver",
    task="synomaly",
    settings=SynomalySettings(**OF_IMAGES, noise=NOISE),
    modality=LIVER_CT,
    images=1.0,
    train=("[0-3].nii.gz",),
    validation=("[45].nii.gz",),
    contrasts=("CT",),
    spacing_mm=3.0,
    batch=4,
    steps=2,
    warmup=1,
    every=2,
)
LABELLED_LIVER = replace(LIVER, task="anofpdm", settings=AnoFPDMSettings(**OF_IMAGES))


def in_folder(folder: Path) -> TrainingData:
    return TrainingData(folder, cache=folder / "prepared")


@pytest.fixture
def _light(monkeypatch: pytest.MonkeyPatch) -> None:
    light_noise_training(monkeypatch)


@pytest.fixture
def livers(tmp_path: Path) -> Path:
    for seed in range(6):
        write_liver(tmp_path / "livers", seed, lesion_hu=30 if seed % 2 else None)
    return tmp_path / "livers"


@pytest.mark.usefixtures("_light")
@pytest.mark.parametrize("config", [LIVER, LABELLED_LIVER], ids=lambda config: config.task)
def test_a_liver_model_is_trained_on_scans_and_used_on_its_own_kind_only(
    livers: Path, tmp_path: Path, config: TrainingConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    Trainer(config, in_folder(livers), tmp_path / "run", device="cpu").run()
    model, scan, mask = (
        str(p) for p in (tmp_path / "run" / "tiny-liver", livers / "images/1.nii.gz", livers / "masks")
    )
    assert detect(scan, "-o", tmp_path / "out", "--model", model, "--mask", f"{mask}/1.nii.gz") == 0
    score = read_volume(tmp_path / "out" / "score.nii.gz")
    assert score.shape == CT_SHAPE
    assert not score.voxels[~liver(1)[1]].any()
    assert json.loads((tmp_path / "out" / "run.json").read_text())["modality"] == LIVER_CT
    capsys.readouterr()
    assert detect(scan, "-o", tmp_path / "none", "--model", model) == 2
    assert "mask of the liver" in capsys.readouterr().err
    assert detect(scan, "-o", tmp_path / "none", "--model", model, "--modality", ULTRASOUND) == 2
    assert "is for liver-ct, not ultrasound" in capsys.readouterr().err
    assert not list((tmp_path / "none").glob("*"))


@pytest.mark.usefixtures("_light")
def test_labels_come_from_masks_tables_or_synthetic_anomalies(livers: Path) -> None:
    with (livers / "labels.csv").open("w") as file:
        file.write("file,slice,anomalous\n")
        file.writelines(f"{s}.nii.gz,{z},{int(s % 2 and z > 2)}\n" for s in range(6) for z in range(CT_SHAPE[2]))
    drawn = {}
    for kind in ("lesions", "table"):
        sources = Sources(with_settings(LABELLED_LIVER, labels=kind), in_folder(livers), CPU)
        drawn[kind] = sources.training(labelled=True).draw(200, 0)
    sick = {kind: slabs.region.flatten(1).any(1) for kind, slabs in drawn.items()}
    assert drawn["lesions"].image.shape[1:] == (1, 32, 32)
    assert 0.15 < float(sick["lesions"].float().mean()) < 0.4
    assert 0.15 < float(sick["table"].float().mean()) < 0.4
    assert drawn["table"].region[sick["table"]].sum() > drawn["lesions"].region.sum()
    synthetic = with_settings(LABELLED_LIVER, labels="synthetic")
    made = AnoFPDMTask(synthetic, in_folder(livers), CPU, validates=False).batches.make(32, 0)
    assert torch.equal(labels(made) == 1, made.region.flatten(1).any(1))
    healthy = SynomalyTask(LIVER, in_folder(livers), CPU, validates=False).batches.slabs
    assert not healthy.draw(200, 0).region.any()


@pytest.mark.usefixtures("_light")
@pytest.mark.parametrize("flips", [(), ("horizontal",), ("vertical",), ("horizontal", "vertical")])
def test_slices_are_flipped_as_asked_with_their_masks_and_again_the_same(livers: Path, flips: tuple[str, ...]) -> None:
    task = AnoFPDMTask(with_settings(LABELLED_LIVER, flips=flips), in_folder(livers), CPU, validates=True)
    made, again = task.batches.make(200, 5), task.batches.make(200, 5)
    drawn = (made.healthy, made.mask, made.region)
    unturned = AnoFPDMTask(LABELLED_LIVER, in_folder(livers), CPU, validates=False).batches.slabs
    every = [replace(unturned, places=(place,)).draw(1, 0) for place in unturned.places]
    known = [[torch.cat([vars(one)[n][:, 0] for one in every]) for n in ("image", "mask", "region")], drawn]
    axes = [[], *([axis] for axis in ([2] if "horizontal" in flips else [])), *([[1]] if "vertical" in flips else [])]
    axes += [[1, 2]] if len(flips) == 2 else []
    seen = np.zeros(len(axes), int)
    for one in zip(*known[1], strict=True):
        places = [
            any(all(torch.equal(v.flip([a - 1 for a in by]), w) for v, w in zip(other, one, strict=True))
                for other in zip(*known[0], strict=True))
            for by in axes
        ]  # fmt: skip
        assert sum(places) == 1
        seen[places.index(True)] += 1
    assert seen.min() > 0.7 * 200 / len(axes)
    assert torch.equal(made.corrupted[:, 0], made.healthy)
    assert torch.equal(again.healthy, made.healthy)
    assert task.held_out.slabs.flips == ()


@pytest.mark.usefixtures("_light")
def test_an_unknown_flip_is_refused_in_one_sentence(livers: Path) -> None:
    with pytest.raises(DisyreError, match=ONE_SENTENCE):
        SynomalyTask(with_settings(LIVER, flips=("sideways",)), in_folder(livers), CPU, validates=False)


@pytest.mark.usefixtures("_light")
@pytest.mark.parametrize("kind", ["lesions", "table", "rumour"])
def test_labels_that_are_missing_or_all_of_one_class_are_refused_in_one_sentence(livers: Path, kind: str) -> None:
    for file in (livers / "lesions").iterdir():
        file.unlink()
    with pytest.raises(DisyreError, match=ONE_SENTENCE):
        AnoFPDMTask(with_settings(LABELLED_LIVER, labels=kind), in_folder(livers), CPU, validates=False)


@pytest.mark.usefixtures("_light")
def test_other_scans_than_brains_are_not_learnt_from_label_maps(livers: Path, tmp_path: Path) -> None:
    shares = (replace(LIVER, images=share) for share in (0.0, 0.5, 1.5))
    for config in (*shares, replace(LIVER, train=("*.png",))):
        with pytest.raises(DisyreError, match=ONE_SENTENCE):
            Trainer(config, in_folder(livers), tmp_path / "run", device="cpu")


# The registry


@pytest.mark.parametrize("name", modality_names())
def test_each_modality_is_one_module_of_its_name(name: str) -> None:
    assert find_modality(name).name == name


def test_a_new_module_is_a_new_modality(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package, before = "DISYRECore.preprocessing.modalities", modality_names()
    lines = ["from dataclasses import replace", f"from {package}.brain_mri import MODALITY as MRI"]
    (tmp_path / "knee_mri.py").write_text("\n".join([*lines, 'MODALITY = replace(MRI, name="knee-mri")\n']))
    monkeypatch.setattr(modalities, "__path__", [*modalities.__path__, str(tmp_path)])
    assert set(modality_names()) == {*before, "knee-mri"}
    assert find_modality("knee-mri").name == "knee-mri"


def test_an_unknown_modality_is_refused_with_the_names_of_those_there_are() -> None:
    with pytest.raises(DisyreError, match=ONE_SENTENCE) as refusal:
        find_modality("knee")
    assert all(name in str(refusal.value) for name in ("knee", *modality_names()))


@pytest.mark.usefixtures("_light")
def test_an_ultrasound_model_is_trained_on_clips_and_looks_at_pictures(tmp_path: Path) -> None:
    (tmp_path / "clips" / "images").mkdir(parents=True)
    for seed in range(3):
        clip = sitk.GetImageFromArray(np.stack([frame(10 * seed + n).T for n in range(4)]))
        sitk.WriteImage(clip, str(tmp_path / "clips" / "images" / f"{seed}.nrrd"))
    network = replace(NETWORK, channels=(8, 8, 8, 16))
    shape = (FRAME_POINTS, FRAME_POINTS)
    settings = with_settings(LIVER, network=network, labels="synthetic", slice_shape=shape)
    settings = replace(settings, name="tiny-us", modality=ULTRASOUND, contrasts=("US",))
    settings = replace(settings, train=("[01].nrrd",), validation=("2.nrrd",))
    Trainer(settings, in_folder(tmp_path / "clips"), tmp_path / "run", device="cpu").run()
    save_picture(frame(plaque=True), tmp_path / "vessel.png")
    assert detect(tmp_path / "vessel.png", "-o", tmp_path / "out", "--model", tmp_path / "run" / "tiny-us") == 0
    assert json.loads((tmp_path / "out" / "run.json").read_text())["method"] == "synomaly"


@pytest.mark.slow
def test_a_network_that_has_seen_healthy_livers_alone_finds_a_metastasis(tmp_path: Path) -> None:
    """A darker region of 40 HU, in two livers that it has not seen; the first two held-out ones set the threshold."""
    for seed in range(12):
        write_liver(tmp_path / "livers", seed, lesion_hu=60 if seed > 7 else None)
    network = DiffusionSettings((16, 32), blocks=1, groups=8, head_width=8, fold=2)
    settings = with_settings(LIVER, network=network, noise=replace(NOISE, threshold=175.0))
    settings = replace(settings, validation=("[89].nii.gz",), train=("[0-7].nii.gz",), batch=16)
    settings = replace(settings, steps=300, every=300, ema=0.99)
    Trainer(replace(settings, learning_rate=2e-3), in_folder(tmp_path / "livers"), tmp_path / "run", device="cpu").run()
    detector = Detector(str(tmp_path / "run" / "tiny-liver"), device="cpu")
    for seed in (10, 11):
        scan, organ, lesion = liver(seed, lesion_hu=60)
        made = detector.detect(scan, mask=organ)
        assert average_precision(made.score.voxels[organ], lesion[organ]) > 0.9
        found = made.labels.voxels > 0
        assert 2 * (found & lesion).sum() / (found.sum() + lesion.sum()) > 0.6
