"""The extension configured and installed against a stand-in for Slicer's build tree, and used from there."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from support import ROOT

STUB = ROOT / "Testing" / "packaging"
MODULES = Path("lib", "Slicer-5.13", "qt-scripted-modules")
LARGEST_MB = 40
SCRIPTED = ("DISYRE", "DISYRETraining")
"""Folders of the scripted modules."""

CATALOGUE_KEYS = {"$schema", "build_dependencies", "build_subdirectory", "category", "scm_revision", "scm_url", "tier"}


def cmake(*arguments: str | Path) -> None:
    program = shutil.which("cmake") or str(Path(sys.executable).with_name("cmake"))
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with a blank and an umlaut in its path, without what git ignores."""
    folder = tmp_path_factory.mktemp("Käthes Rechner") / "Slicer DISYRE"
    folder.mkdir()
    for name in ("CMakeLists.txt", *SCRIPTED, "DISYRECore", "Resources"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def build(source: Path) -> Path:
    if not (shutil.which("cmake") or Path(sys.executable).with_name("cmake").is_file()):
        pytest.skip("cmake is not installed")
    folder = source.with_name("build")
    cmake("-S", source, "-B", folder, f"-DSlicer_DIR={STUB}")
    return folder


@pytest.fixture(scope="module")
def installed(build: Path) -> Path:
    """Folder of the scripted modules in the install tree."""
    prefix = build.with_name("install")
    cmake("--install", build, "--prefix", prefix)
    return prefix / MODULES


def files(folder: Path) -> set[Path]:
    paths = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder) for path in paths}


def run_python(folder: Path, code: str) -> str:
    """Runs code in a fresh process that sees the install tree and not this checkout."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "DISYRE"))}
    program = f"import sys; sys.path.insert(0, {str(folder)!r})\n{code}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_every_python_file_is_installed(installed: Path) -> None:
    core = {Path("DISYRECore", path) for path in files(ROOT / "DISYRECore") if path.suffix == ".py"}
    modules = {path for name in SCRIPTED for path in files(ROOT / name) if path.suffix == ".py"}
    assert core | modules == {path for path in files(installed) if path.suffix == ".py"}
    assert Path("DISYRECore", "__init__.py") in core
    for name in SCRIPTED:
        assert not (ROOT / name / "__init__.py").exists(), f"Slicer would not look for modules in {name}/"


def test_resources_lie_where_they_are_looked_for(installed: Path) -> None:
    wanted = {Path("Resources", "Icons", "DISYRE.png"), Path("Resources", "requirements.txt")}
    wanted |= {path for name in SCRIPTED for path in files(ROOT / name) if path.parts[0] == "Resources"}
    for folder in ("Models", "Anatomy"):
        wanted |= {Path("DISYRECore", "Resources", folder, path) for path in files(ROOT / "Resources" / folder)}
    wanted.add(Path("DISYRECore", "Resources", "DISYRE.term.json"))
    assert wanted <= files(installed)


def test_installed_copy_finds_its_own_models(installed: Path) -> None:
    code = """
import DISYRECore
from DISYRECore.io.average_head import AVERAGE_HEAD
from DISYRECore.models.description import find_model, list_models
from DISYRECore.preprocessing.skull_strip import load_skull_strip
from DISYRECore.models.store import load_model
assert AVERAGE_HEAD.is_file()
load_model(list_models()[0].id), load_skull_strip()
print(DISYRECore.__file__, AVERAGE_HEAD, *(find_model(model.id) for model in list_models()), sep="\\n")
"""
    paths = run_python(installed, code).splitlines()
    assert len(paths) >= 3
    assert all(Path(path).is_relative_to(installed.resolve()) for path in paths)


def test_installed_copy_answers_as_a_command(installed: Path) -> None:
    code = "import runpy; sys.argv = ['disyre', '--version']; runpy.run_module('DISYRECore', run_name='__main__')"
    version = run_python(ROOT, "from DISYRECore.version import __version__; print(__version__)")
    assert version in run_python(installed, code)


def test_installed_configs_are_where_the_wizard_looks(installed: Path) -> None:
    code = """
from DISYRECore.training.choices import Choices, config_values
print(config_values(Choices("mine"))["task"])
"""
    assert run_python(installed, code) == "restoration"


def test_installed_worker_runs_by_path(installed: Path, tmp_path: Path) -> None:
    """As PythonSlicer does: the folder of the modules is on its path; -S drops what links to this checkout."""
    request = json.dumps({"command": "demo", "output": str(tmp_path / "demo")})
    command = [sys.executable, "-S", "-u", str(installed / "DISYRECore" / "apps" / "worker.py")]
    environment = {**os.environ, "PYTHONPATH": sysconfig.get_path("purelib")}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=tmp_path, env=environment) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(request + "\n")
        process.stdin.flush()
        events = (json.loads(line)["event"] for line in process.stdout)
        last = next((event for event in events if event in ("result", "error", "cancelled")), None)
        process.communicate()  # closes stdin, which ends the worker
    assert last == "result"
    assert process.returncode == 0
    assert list((tmp_path / "demo").glob("*.nii.gz"))


def test_installed_tree_is_small_and_holds_nothing_else(installed: Path) -> None:
    paths = files(installed)
    assert sum((installed / path).stat().st_size for path in paths) < LARGEST_MB * 1e6
    known = {".py", ".json", ".safetensors", ".gz", ".yaml", ".md", ".ui", ".png", ".svg", ".txt", ".ctbl"}
    assert {path.suffix for path in paths} <= known
    assert {path.parts[0] for path in paths if len(path.parts) > 1} == {
        "DISYRECore",
        "DISYRELib",
        "DISYRETrainingLib",
        "Resources",
    }


def test_catalogue_entry_says_what_cmake_says(build: Path) -> None:
    project, homepage, icon = (build / "extension.txt").read_text(encoding="utf-8").split()
    entry = json.loads((ROOT / f"{project}.json").read_text(encoding="utf-8"))
    assert set(entry) == CATALOGUE_KEYS
    assert entry["scm_url"].removesuffix(".git") == homepage
    assert entry["build_dependencies"] == ["PyTorch"]
    assert (ROOT / icon.split("/main/")[1]).is_file()


def test_icon_is_128_pixels_square() -> None:
    icons = [ROOT / name / "Resources" / "Icons" / f"{name}.png" for name in SCRIPTED]
    for path in (ROOT / "Resources" / "DISYRE.png", *icons):
        assert struct.unpack(">II", path.read_bytes()[16:24]) == (128, 128)


def test_requirements_leave_slicers_own_packages_alone() -> None:
    lines = (ROOT / "DISYRE" / "Resources" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    names = {line.split("#")[0].split(">")[0].strip().lower() for line in lines} - {""}
    assert names.isdisjoint({"torch", "numpy", "scipy", "simpleitk", "vtk", "pillow", "requests"})
    assert {"nibabel", "safetensors"} <= names


def test_terminology_names_the_segment_as_the_module_does() -> None:
    terms = json.loads((ROOT / "Resources" / "DISYRE.term.json").read_text(encoding="utf-8"))
    category = terms["SegmentationCodes"]["Category"][0]
    codes = [(code["CodeValue"], code["CodeMeaning"]) for code in (category, category["Type"][0])]
    assert terms["SegmentationCategoryTypeContextName"] == "Segmentation category and type - DISYRE"
    assert codes == [("49755003", "Morphologically Altered Structure"), ("52988006", "Lesion")]
