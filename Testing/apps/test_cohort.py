"""Cohorts: whatever happens at whatever moment, a result in its place is whole, new, and of its own scan."""

from __future__ import annotations

import csv
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import ROOT

from DISYRECore.apps import cohort
from DISYRECore.apps.cases import Case, find_cases
from DISYRECore.apps.cli import main
from DISYRECore.apps.cohort import Ready, Recipe, run_cohort, run_one
from DISYRECore.apps.output import ALWAYS, read_record
from DISYRECore.detection.detector import Detection
from DISYRECore.detection.findings import Finding
from DISYRECore.errors import DisyreError
from DISYRECore.io.read import find_scans, read_volume
from DISYRECore.io.volume import Volume
from DISYRECore.io.write import write_volume
from DISYRECore.reports.cohort import CaseSummary, read_summary, write_index
from DISYRECore.synthesis.anatomy import load_anatomies
from DISYRECore.synthesis.test_set import synthesise_case

RECIPE = Recipe(method="z-score")
Rows = dict[str, dict[str, str]]


def rows(output: Path) -> Rows:
    with (output / "summary.csv").open(encoding="utf-8", newline="") as file:
        return {row["case"]: row for row in csv.DictReader(file)}


def statuses(output: Path) -> dict[str, str]:
    return {name: row["status"] for name, row in rows(output).items()}


# --- with a stand-in for what takes long: a scan is a text file with a number, which becomes its score


def number_of(path: Path) -> float:
    return float(path.read_text())


def load(case: Case, recipe: Recipe) -> Ready:
    number_of(case.scans[0])
    return Ready(case, case.content_sha256(), case)  # type: ignore[arg-type]


def detect(ready: Ready, recipe: Recipe, progress: Any) -> Detection:
    number = number_of(ready.case.scans[0])
    noise = np.random.default_rng(int(number)).random((12, 12, 12), np.float32)
    volume = Volume(noise, np.diag([10.0, 10.0, 10.0, 1.0]))
    mask = replace(volume, voxels=np.ones((12, 12, 12), np.uint8))
    score = replace(volume, voxels=np.full((12, 12, 12), number / 1000, np.float32))
    record = {
        "disyre": "0",
        "modality": "brain-mri",
        "seconds": {},
        "scan": {"contrast": "T1", "flags": []},
        "border": recipe.border,
        "input": [str(scan) for scan in ready.case.scans],
        "input_sha256": ready.content_sha256,
        "settings_sha256": recipe.sha256(),
    }
    finding = Finding(1, number, 1.0, 1.0, (5.0, 5.0, 5.0), "left", (50.0, 50.0, 50.0), false_findings=number / 1e4)
    return Detection(volume, score, mask, volume, mask, [finding] if number else [], 0.5, record)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cohort, "load", load)
    monkeypatch.setattr(cohort, "_detect", detect)


def scans(root: Path, **numbers: float) -> Path:
    for name, number in numbers.items():
        path = root / f"{name.replace('__', '/')}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(number))
    return root


def run(folder: Path, output: Path, recipe: Recipe = RECIPE, **settings: Any) -> int:
    return run_cohort(find_cases([folder], find_scans, output).cases, recipe, output, **settings)


def results(output: Path) -> dict[str, float]:
    """The number that each result in its place was made of; fails where one is not whole or not of its scan.

    A folder that holds more than a result cannot be swapped in one go, and is marked while half of it is there.
    """
    found = {}
    for folder in sorted(path for path in output.rglob("*") if path.is_dir() and ".disyre" not in path.parts):
        ours = {path.name for path in folder.iterdir() if path.is_file()} & set(ALWAYS)
        if not ours or ((folder / ".run.json").exists() and "run.json" not in ours):
            continue
        assert ours == set(ALWAYS), f"half a result in {folder}: {ours}"
        case = folder.relative_to(output).as_posix()
        number = float(read_volume_of_one_value(folder / "score.nii.gz")) * 1000
        (source,) = read_record(folder)["input"]
        assert source.endswith(f"{case}.nii.gz")
        found[case] = round(number, 3)
    return found


def read_volume_of_one_value(path: Path) -> float:
    voxels = read_volume_of(path)
    assert np.ptp(voxels) == 0
    return float(voxels[0, 0, 0])


@pytest.mark.usefixtures("quick")
def test_each_patient_keeps_a_name_and_the_way_to_the_scan(tmp_path: Path) -> None:
    folder, out = scans(tmp_path / "in", Adams__FLAIR=1, Brown__FLAIR=2), tmp_path / "out"
    assert run(folder, out) == 0
    assert results(out) == {"Adams/FLAIR": 1, "Brown/FLAIR": 2}
    scans(folder, Aaron__FLAIR=3)
    assert run(folder, out) == 0
    assert results(out) == {"Aaron/FLAIR": 3, "Adams/FLAIR": 1, "Brown/FLAIR": 2}
    for case, row in rows(out).items():
        assert row["input"] == str(folder / f"{case}.nii.gz")
        assert read_record(out / case)["input"] == [row["input"]]
        assert case in (out / case / "report.html").read_text(encoding="utf-8")


@pytest.mark.usefixtures("quick")
def test_a_rerun_computes_what_is_new_or_has_changed_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[str] = []

    def counting(ready: Ready, recipe: Recipe, progress: Any) -> Detection:
        computed.append(ready.case.name)
        return detect(ready, recipe, progress)

    monkeypatch.setattr(cohort, "_detect", counting)
    folder, out = scans(tmp_path / "in", a=1, b=2, c=3), tmp_path / "out"

    def rerun(recipe: Recipe = RECIPE) -> list[str]:
        computed.clear()
        assert run(folder, out, recipe) == 0
        assert statuses(out) == dict.fromkeys(results(out), "ok")
        return list(computed)

    assert rerun() == ["a", "b", "c"]
    first = rows(out)
    assert rerun() == []
    assert rows(out) == first
    scans(folder, b=20, d=4)
    assert rerun() == ["b", "d"]
    assert results(out) == {"a": 1, "b": 20, "c": 3, "d": 4}
    (out / "c" / "score.nii.gz").unlink()
    assert rerun() == ["c"]
    assert rerun(replace(RECIPE, border=0.3)) == ["a", "b", "c", "d"]
    (folder / "a.nii.gz").unlink()
    assert rerun(replace(RECIPE, border=0.3)) == []
    assert results(out)["a"] == 1


@pytest.mark.usefixtures("quick")
def test_a_case_that_fails_keeps_no_old_result_and_others_are_left_alone(tmp_path: Path) -> None:
    folder, out = scans(tmp_path / "in", a=1, b=2), tmp_path / "out"
    assert run(folder, out) == 0
    (folder / "a.nii.gz").write_text("damaged")
    (folder / "b.nii.gz").unlink()
    scans(folder, c=3)
    assert run(folder, out) == 2
    assert results(out) == {"b": 2, "c": 3}
    assert statuses(out) == {"a": "failed", "b": "ok", "c": "ok"}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("error", [MemoryError(), BrokenPipeError(), RuntimeError("x\ny"), RecursionError()])
def test_whatever_goes_wrong_costs_one_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def failing(ready: Ready, recipe: Recipe, progress: Any) -> Detection:
        if ready.case.name == "b":
            raise error
        return detect(ready, recipe, progress)

    monkeypatch.setattr(cohort, "_detect", failing)
    out = tmp_path / "out"
    assert run(scans(tmp_path / "in", a=1, b=2, c=3), out) == 2
    assert results(out) == {"a": 1, "c": 3}
    assert statuses(out) == {"a": "ok", "b": "failed", "c": "ok"}
    assert re.fullmatch(r"[^\n]+", rows(out)["b"]["message"])


@pytest.mark.usefixtures("quick")
def test_when_a_run_is_stopped_old_results_of_cases_not_reached_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = scans(tmp_path / "in", a=1, b=2, c=3), tmp_path / "out"
    assert run(folder, out) == 0
    seen: list[dict[str, float]] = []

    def stopped(ready: Ready, recipe: Recipe, progress: Any) -> Detection:
        seen.append(results(out))
        if ready.case.name == "b":
            raise KeyboardInterrupt
        return detect(ready, recipe, progress)

    monkeypatch.setattr(cohort, "_detect", stopped)
    scans(folder, a=10, b=20, c=30)
    with pytest.raises(KeyboardInterrupt):
        run(folder, out)
    assert seen == [{}, {"a": 10}]
    assert results(out) == {"a": 10, "b": 2, "c": 3}
    assert statuses(out) == {"a": "ok", "b": "waiting", "c": "waiting"}
    assert not (out / ".disyre").exists()


@pytest.mark.usefixtures("quick")
def test_files_of_the_user_and_cases_within_cases_stay(tmp_path: Path) -> None:
    folder, out = scans(tmp_path / "in", x=1, x__y=2, x__y__z=3), tmp_path / "out"
    for border in (0.1, 0.2, 0.3):
        assert run(folder, out, replace(RECIPE, border=border)) == 0
        assert results(out) == {"x": 1, "x/y": 2, "x/y/z": 3}
        (out / "x" / "note.txt").write_text("seen")
    (folder / "x.nii.gz").write_text("damaged")
    assert run(folder, out) == 2
    assert results(out) == {"x/y": 2, "x/y/z": 3}
    assert [path.name for path in (out / "x").iterdir() if path.is_file()] == ["note.txt"]


@pytest.mark.usefixtures("quick")
def test_files_that_are_called_like_a_result_but_are_none_are_not_overwritten(tmp_path: Path) -> None:
    folder, out = scans(tmp_path / "in", a=1), tmp_path / "out"
    (out / "a").mkdir(parents=True)
    (out / "a" / "brain_mask.nii.gz").write_text("my own")
    with pytest.raises(DisyreError, match="choose another output folder"):
        run(folder, out)
    with pytest.raises(DisyreError, match="choose another output folder"):
        run_one(Case("", (folder / "a.nii.gz",)), RECIPE, out / "a")
    assert (out / "a" / "brain_mask.nii.gz").read_text() == "my own"
    assert [path.name for path in (out / "a").iterdir()] == ["brain_mask.nii.gz"]


@pytest.mark.usefixtures("quick")
def test_the_output_may_lie_in_the_input_or_be_it(tmp_path: Path) -> None:
    for name, below in (("in", "results"), ("all", "")):
        folder = scans(tmp_path / name, x__y=1, z=2)
        for _ in range(2):
            assert run(folder, folder / below) == 0
        assert statuses(folder / below) == {"z": "ok", "x/y": "ok"}


@pytest.mark.usefixtures("quick")
def test_two_runs_do_not_write_to_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, out = scans(tmp_path / "in", a=1), tmp_path / "out"

    def another(ready: Ready, recipe: Recipe, progress: Any) -> Detection:
        with pytest.raises(DisyreError, match="Another run"):
            run(folder, out)
        return detect(ready, recipe, progress)

    monkeypatch.setattr(cohort, "_detect", another)
    assert run(folder, out) == 0
    assert results(out) == {"a": 1}


def test_the_next_case_is_read_while_the_present_one_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = {name: threading.Event() for name in "abc"}

    def loading(case: Case, recipe: Recipe) -> Ready:
        read[case.name].set()
        return load(case, recipe)

    def detecting(ready: Ready, recipe: Recipe, progress: Any) -> Detection:
        following = {"a": "b", "b": "c"}.get(ready.case.name)
        assert following is None or read[following].wait(10)
        assert ready.case.name != "a" or not read["c"].is_set()
        return detect(ready, recipe, progress)

    monkeypatch.setattr(cohort, "load", loading)
    monkeypatch.setattr(cohort, "_detect", detecting)
    assert run(scans(tmp_path / "in", a=1, b=2, c=3), tmp_path / "out") == 0


def killed_after(seconds: float, work: Callable[[], object]) -> bool:
    """Runs in a process that is killed; whether it came to its end before."""
    child = os.fork()
    if child == 0:
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(1, 2)
            work()
        finally:
            os._exit(0)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if os.waitpid(child, os.WNOHANG)[0]:
            return True
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.usefixtures("quick")
def test_killed_at_any_moment_nothing_is_lost_half_written_or_of_someone_else(tmp_path: Path) -> None:
    """Twenty cases, nested and flat, with old results of other content; whatever is in place is whole all the time."""
    chance = random.Random(0)
    names = [f"p{k}" for k in range(8)] + [f"p{k}__T1" for k in range(8)] + [f"q__{k}" for k in range(4)]
    old = {name: k + 1 for k, name in enumerate(names)}
    new = {name: k + 101 for k, name in enumerate(names)}
    folder, out = scans(tmp_path / "in", **old), tmp_path / "out"
    start = time.monotonic()
    assert run(folder, out) == 0
    usual = time.monotonic() - start
    before = results(out)
    scans(folder, **new)
    wanted = {name.replace("__", "/"): number for name, number in new.items()}
    kills, finished = 0, False
    while not finished:
        finished = killed_after(chance.uniform(0, usual / 5), lambda: run(folder, out))
        kills += not finished
        for name, number in results(out).items():
            assert number in (before[name], wanted[name])
        with cohort._work(out):
            pass
        assert set(results(out)) == set(wanted), "lost"
    assert kills >= 2
    assert run(folder, out) == 0
    assert results(out) == wanted
    assert not (out / ".disyre").exists()


# --- one case


@pytest.mark.usefixtures("quick")
def test_a_single_result_follows_the_same_rules(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = scans(tmp_path / "in", a=1), tmp_path / "out"
    case = Case("", (folder / "a.nii.gz",))
    out.mkdir()
    (out / "note.txt").write_text("seen")
    run_one(case, RECIPE, out)
    made = (out / "run.json").stat().st_mtime_ns
    run_one(case, RECIPE, out)
    assert (out / "run.json").stat().st_mtime_ns == made
    assert "it is kept" in capsys.readouterr().err
    scans(folder, a=2)
    run_one(case, RECIPE, out)
    assert read_volume_of_one_value(out / "score.nii.gz") == pytest.approx(0.002)
    (folder / "a.nii.gz").write_text("damaged")
    with pytest.raises(ValueError, match="damaged"):
        run_one(case, RECIPE, out)
    assert [path.name for path in out.iterdir()] == ["note.txt"]


# --- the summary and the index


def test_the_index_shows_first_what_needs_a_look(tmp_path: Path) -> None:
    done = {"findings": 0, "volume_ml": 0.0, "contrast": "T1"}
    table = [
        CaseSummary("calm", "", "ok", **done),
        CaseSummary("doubted", "", "ok", **done, message="Slices are 6 mm thick."),
        CaseSummary("usual", "", "ok", 3, 9.0, 0.4, "T1"),
        CaseSummary("rare <1>", "", "ok", 1, 0.5, 0.01, "T1"),
        CaseSummary("broken", "", "failed", message="It is damaged."),
        CaseSummary("waits", "", "waiting"),
    ]
    write_index(table, tmp_path, "report.html", "thumbnail.png")
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    order = ["broken", "waits", "rare &lt;1&gt;", "usual", "doubted", "calm"]
    assert re.findall(r"<h2>(?:<a[^>]*>)?([^<]+)", page) == order
    assert 'href="rare%20%3C1%3E/report.html"' in page
    assert "<script" not in page
    assert not re.findall(r"https?://", page)


@pytest.mark.usefixtures("quick")
def test_the_index_pictures_every_case_and_links_to_its_report(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(scans(tmp_path / "in", a=1, b__c=2), out)
    page = (out / "index.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 2
    for link in re.findall(r'href="([^"]+)"', page):
        assert (out / link).is_file()
    assert [row.case for row in read_summary(out / "summary.csv")] == ["a", "b/c"]


# --- real scans


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    anatomy = load_anatomies([ROOT / "Resources" / "Anatomy" / "folded_head.nii.gz"])
    case = synthesise_case(anatomy, 0, 3, contrast="FLAIR", kind="mass", spacing_mm=4.0)
    folder = tmp_path_factory.mktemp("real")
    write_volume(case.scan, folder / "FLAIR.nii.gz")
    write_volume(case.truth, folder / "growth.nii.gz")
    return folder / "FLAIR.nii.gz"


def test_a_label_map_beside_scans_is_left_out_whatever_it_is_called(scan: Path, tmp_path: Path) -> None:
    assert main(["detect", str(scan.parent), "-o", str(tmp_path / "out"), "--method", "z-score"]) == 0
    assert statuses(tmp_path / "out") == {"FLAIR": "ok", "growth": "left out"}
    assert "label map" in rows(tmp_path / "out")["growth"]["message"]
    assert not (tmp_path / "out" / "growth").exists()
    named = ["detect", str(scan.parent / "growth.nii.gz"), "-o", str(tmp_path / "one"), "--method", "z-score"]
    assert main(named) == 2


def test_a_reader_that_goes_away_costs_nothing(scan: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "in" / name).mkdir(parents=True)
        (tmp_path / "in" / name / "FLAIR.nii.gz").write_bytes(scan.read_bytes())
    command = [sys.executable, "-m", "DISYRECore", "detect", "in", "-o", "out", "--method", "z-score"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    gone, writing = os.pipe()
    os.close(gone)
    done = subprocess.run(command, stdout=writing, stderr=writing, cwd=tmp_path, env=environment)
    os.close(writing)
    assert done.returncode == 0
    assert statuses(tmp_path / "out") == {"a/FLAIR": "ok", "b/FLAIR": "ok"}


def test_a_table_gives_each_case_its_own_mask_and_contrast(scan: Path, tmp_path: Path) -> None:
    whole = read_volume(scan)
    half = (whole.voxels > 0).astype(np.uint8)
    half[: half.shape[0] // 2] = 0
    write_volume(replace(whole, voxels=half), tmp_path / "half.nii.gz")
    table = tmp_path / "cohort.csv"
    table.write_text(f"case,scan,mask,contrast\none,{scan},half.nii.gz,T2\ntwo,{scan},,\ngone,nowhere.nii.gz,,\n")
    assert main(["detect", str(table), "-o", str(tmp_path / "out"), "--method", "z-score"]) == 2
    assert statuses(tmp_path / "out") == {"one": "ok", "two": "ok", "gone": "failed"}
    says = "nowhere.nii.gz cannot be read (No such file or directory); check the path."
    assert rows(tmp_path / "out")["gone"]["message"] == says
    made = [json.loads((tmp_path / "out" / name / "run.json").read_text())["scan"] for name in ("one", "two")]
    assert [(one["contrast"], one["brain_mask"]) for one in made] == [("T2", "given"), ("FLAIR", "stripped")]


def test_results_of_a_bids_dataset_become_a_derivative_dataset_on_request(scan: Path, tmp_path: Path) -> None:
    root = tmp_path / "bids"
    for name in ("sub-1/ses-a/anat/sub-1_ses-a_run-2_FLAIR", "sub-2/anat/sub-2_T2w"):
        path = root / f"{name}.nii.gz"
        path.parent.mkdir(parents=True)
        path.write_bytes(scan.read_bytes())
    (root / "dataset_description.json").write_text("{}")
    made = root / "derivatives" / "disyre"
    command = ["detect", str(root), "-o", str(tmp_path / "out"), "--method", "z-score", "--bids", str(made)]
    for _ in range(2):
        assert main(command) == 0
    description = json.loads((made / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative"
    start = made / "sub-1" / "ses-a" / "anat" / "sub-1_ses-a_run-2_desc-FLAIRAnomaly_dseg"
    assert start.with_suffix(".nii.gz").read_bytes() == next((tmp_path / "out").rglob("anomalies.nii.gz")).read_bytes()
    table = start.with_suffix(".tsv").read_text().splitlines()
    assert table[0].startswith("index\tname\t")
    assert (made / "sub-2" / "anat" / "sub-2_desc-restored_T2w.nii.gz").is_file()
    assert len(list(made.rglob("*.nii.gz"))) == 8
    assert main(["detect", str(scan), "-o", str(tmp_path / "one"), "--bids", str(made)]) == 2


# --- on a cluster


@pytest.mark.parametrize("processes", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_cluster_of_two_workers_gives_identical_results(scan: Path, tmp_path: Path, processes: bool) -> None:
    distributed = pytest.importorskip("distributed")
    for name in ("a", "b", "c"):
        (tmp_path / "in" / name).mkdir(parents=True)
        (tmp_path / "in" / name / "FLAIR.nii.gz").write_bytes(scan.read_bytes())
    (tmp_path / "in" / "c" / "FLAIR.nii.gz").write_bytes(scan.read_bytes()[:1000])
    command = ["detect", str(tmp_path / "in"), "--method", "z-score"]
    assert main([*command, "-o", str(tmp_path / "here")]) == 2
    with distributed.LocalCluster(2, processes=processes, threads_per_worker=1, dashboard_address=None) as cluster:
        assert main([*command, "-o", str(tmp_path / "there"), "--scheduler", cluster.scheduler_address]) == 2
    assert statuses(tmp_path / "there") == {"a/FLAIR": "ok", "b/FLAIR": "ok", "c/FLAIR": "failed"}
    for name in ("a", "b"):
        one, other = (tmp_path / place / name / "FLAIR" for place in ("here", "there"))
        for file in ("score.nii.gz", "anomalies.nii.gz", "restored.nii.gz", "brain_mask.nii.gz"):
            assert np.array_equal(read_volume_of(one / file), read_volume_of(other / file))
        assert (one / "findings.csv").read_bytes() == (other / "findings.csv").read_bytes()
        keep = ("settings_sha256", "input_sha256", "input", "settings", "scan", "border")
        assert [read_record(one)[key] for key in keep] == [read_record(other)[key] for key in keep]


def read_volume_of(path: Path) -> np.ndarray:
    import nibabel as nib

    return np.asarray(nib.load(path).dataobj)


def test_a_scheduler_that_does_not_answer_is_named(
    scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr("DISYRECore.apps.cluster.TIMEOUT_S", 1)
    command = ["detect", str(scan.parent), "-o", str(tmp_path / "out"), "--method", "z-score"]
    assert main([*command, "--scheduler", "tcp://127.0.0.1:9"]) == 2
    assert "No Dask scheduler answers at tcp://127.0.0.1:9" in capsys.readouterr().err
