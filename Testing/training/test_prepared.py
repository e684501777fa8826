"""The cache of prepared scans."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import ONE_SENTENCE

from DISYRECore.errors import DisyreError
from DISYRECore.io.read import read_volume
from DISYRECore.io.write import write_volume
from DISYRECore.preprocessing.prepare import prepare
from DISYRECore.training import prepared
from DISYRECore.training.prepared import Cache, ScanSource, refuse_shared

Usage = namedtuple("Usage", "total used free")


def sources(folder: Path) -> list[ScanSource]:
    return [ScanSource(path) for path in sorted(folder.glob("*.nii.gz"))]


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache", "brain-mri", 6.0)


def test_what_is_kept_is_what_detection_prepares(scans: Path, cache: Cache) -> None:
    made = cache.get_all(sources(scans)[:1])[0][0]
    image, mask = prepare(read_volume(scans / "p0_T1.nii.gz"), 6.0).tensors()
    assert made.open("image").dtype == np.float16
    assert np.abs(made.open("image") - image.numpy()).max() < 5e-4
    assert np.array_equal(made.open("mask"), mask.numpy())
    assert isinstance(made.open("image"), np.memmap)
    assert made.inside == tuple(mask.sum((1, 2)).tolist())
    assert (made.contrast, any(made.anomalous)) == ("T1", False)
    picture = np.asarray(Image.open(made.picture))
    assert picture.max() > 100
    assert picture.shape[0] >= mask.shape[0]


def test_scans_are_prepared_once(scans: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = cache.get_all(sources(scans))
    monkeypatch.setattr(Cache, "_make", lambda *_: pytest.fail("prepared again"))
    assert cache.get_all(sources(scans))[0] == first


def test_another_name_or_folder_is_the_same_scan_and_other_settings_are_not(
    scans: Path, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(scans / "p0_T1.nii.gz", tmp_path / "other_T1.nii.gz")
    source = ScanSource(scans / "p0_T1.nii.gz")
    keys = {cache._key(one) for one in (source, ScanSource(tmp_path / "other_T1.nii.gz"))}
    assert len(keys) == 1
    others = [
        cache._key(replace(source, mask=scans / "p1_T1.nii.gz")),
        cache._key(replace(source, anomalous=(True,))),
        replace(cache, spacing_mm=3.0)._key(source),
        replace(cache, modality="liver-ct")._key(source),
        cache._key(ScanSource(scans / "p1_T1.nii.gz")),
    ]
    monkeypatch.setattr(prepared, "VERSION", prepared.VERSION + 1)
    others.append(cache._key(source))
    assert len({*keys, *others}) == 7


def test_a_name_that_says_another_contrast_is_another_scan(scans: Path, cache: Cache, tmp_path: Path) -> None:
    shutil.copy(scans / "p0_T1.nii.gz", tmp_path / "p0.nii.gz")
    assert cache._key(ScanSource(tmp_path / "p0.nii.gz")) != cache._key(ScanSource(scans / "p0_T1.nii.gz"))


def test_an_unreadable_scan_costs_that_scan_with_a_sentence(scans: Path, cache: Cache, tmp_path: Path) -> None:
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes((scans / "p0_T1.nii.gz").read_bytes()[:2000])
    told: list[tuple[int, int, str]] = []
    made, problems = cache.get_all([ScanSource(broken), *sources(scans)[:2]], lambda *one: told.append(one))
    assert len(made) == 2
    assert list(problems) == [broken]
    assert told == [(1, 3, problems[broken]), (2, 3, ""), (3, 3, "")]
    assert "broken.nii.gz" in problems[broken]
    with pytest.raises(DisyreError, match="0 of 1 scans"):
        cache.get_all([ScanSource(broken)])


@pytest.mark.parametrize("name", ["image.npy", "scan.json"])
def test_a_damaged_entry_is_made_anew(scans: Path, cache: Cache, name: str) -> None:
    made = cache.get_all(sources(scans)[:1])[0][0]
    whole = (made.folder / name).read_bytes()
    (made.folder / name).write_bytes(whole[: len(whole) // 2])
    assert cache.get_all(sources(scans)[:1])[0][0] == made
    assert (made.folder / name).read_bytes() == whole


def test_a_killed_preparation_leaves_only_whole_scans_and_resumes(scans: Path, cache: Cache) -> None:
    script = (
        "import sys; from pathlib import Path; from DISYRECore.training.prepared import Cache, ScanSource\n"
        "cache = Cache(Path(sys.argv[1]), 'brain-mri', 6.0)\n"
        "while True:\n"
        "    cache.get_all([ScanSource(Path(path)) for path in sys.argv[2:]])\n"
        "    import shutil; [shutil.rmtree(one) for one in cache.folder.glob('[0-9a-f]*')]\n"
    )
    paths = [str(one.scan) for one in sources(scans)]
    process = subprocess.Popen([sys.executable, "-c", script, str(cache.folder), *paths])
    while not list(cache.folder.glob("*/scan.json")):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    made, problems = cache.get_all(sources(scans))
    assert (len(made), problems) == (6, {})
    assert all(one.open("image").shape == one.open("mask").shape for one in made)


def test_nothing_of_the_patient_is_kept(scans: Path, cache: Cache, tmp_path: Path) -> None:
    shutil.copy(scans / "p0_T1.nii.gz", tmp_path / "Doe_John_T1.nii.gz")
    made = cache.get_all([ScanSource(tmp_path / "Doe_John_T1.nii.gz")])[0][0]
    for file in made.folder.iterdir():
        assert "doe" not in file.name.lower()
        assert b"doe" not in file.read_bytes().lower()


def test_a_disk_that_is_nearly_full_is_refused_before_and_said_on_the_way(
    scans: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", full)
        with pytest.raises(DisyreError, match="No space left"):
            cache.get_all(sources(scans))
    assert not list(cache.folder.iterdir())
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**12, 10**12, 100 * 2**20))
    with pytest.raises(DisyreError, match=ONE_SENTENCE) as refusal:
        cache.get_all(sources(scans))
    assert "MB" in str(refusal.value)


def test_a_cache_that_cannot_be_written_is_refused_in_one_sentence(scans: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DisyreError, match=ONE_SENTENCE):
        Cache(tmp_path / "file" / "cache", "brain-mri", 6.0).get_all(sources(scans))


def test_the_same_scan_in_training_and_held_out_is_refused(scans: Path, cache: Cache, tmp_path: Path) -> None:
    """Also under another name and in another format."""
    write_volume(read_volume(scans / "p0_T1.nii.gz"), tmp_path / "x_T1.nrrd")
    made, _ = cache.get_all([*sources(scans), ScanSource(tmp_path / "x_T1.nrrd")])
    refuse_shared(made[:3], made[3:6])
    with pytest.raises(DisyreError, match=ONE_SENTENCE) as refusal:
        refuse_shared(made[:3], made[3:])
    assert "p0_T1.nii.gz and x_T1.nrrd" in str(refusal.value)


def test_memory_does_not_grow_with_the_number_of_scans(scans: Path, cache: Cache) -> None:
    made, _ = cache.get_all(sources(scans))
    tracemalloc.start()
    cache.get_all(sources(scans) * 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 2**20
    assert json.loads((made[0].folder / "scan.json").read_text())["record"]["brain_mask"] == "stripped"
