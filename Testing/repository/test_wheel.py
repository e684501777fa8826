"""The wheel brings everything along: installed on its own, it lists its models and detects, far from the checkout."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from support import ROOT

from DISYRECore.io.write import write_volume
from DISYRECore.models.description import list_models
from DISYRECore.synthesis.anatomy import load_anatomies
from DISYRECore.synthesis.test_set import synthesise_case

pytestmark = pytest.mark.slow

PARTS = ("DISYRECore", "Resources", "pyproject.toml", "setup.py", "README.md", "LICENSE")


def run(*command: str | Path, folder: Path) -> str:
    done = subprocess.run([str(part) for part in command], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing is left in the checkout."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in PARTS:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", out, source, folder=out)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Programs of an environment that holds the wheel, and sees the packages that it needs in this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    scheme = {"base": str(folder), "platbase": str(folder)}
    scripts, packages = (Path(sysconfig.get_path(name, vars=scheme)) for name in ("scripts", "purelib"))
    (packages / "needed.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    install = ("install", "--quiet", "--no-deps", "--no-index", "--force-reinstall", wheel)
    run(sys.executable, "-m", "pip", "--python", scripts / "python", *install, folder=folder)
    return scripts


def test_it_is_the_wheel_that_runs(installed: Path, tmp_path: Path) -> None:
    said = run(installed / "python", "-c", "import DISYRECore; print(DISYRECore.__file__)", folder=tmp_path)
    assert Path(said.strip()).is_relative_to(installed.parent)


def test_models_are_bundled(installed: Path, tmp_path: Path) -> None:
    listed = {line.split("\t")[0] for line in run(installed / "disyre", "models", folder=tmp_path).splitlines()}
    assert listed == {description.id for description in list_models()}


def test_configs_and_terminology_are_bundled(installed: Path, tmp_path: Path) -> None:
    place = "from DISYRECore.io.files import resources; print(resources())"
    bundled = Path(run(installed / "python", "-c", place, folder=tmp_path).strip())
    assert bundled.is_relative_to(installed.parent)
    for name in ("Configs/brain-restoration.yaml", "DISYRE.term.json", "Anatomy/average_head_2mm.nii.gz"):
        assert (bundled / name).read_bytes() == (ROOT / "Resources" / name).read_bytes()


def test_it_detects_the_demo_scan(installed: Path, tmp_path: Path) -> None:
    heads = load_anatomies([ROOT / "Resources" / "Anatomy" / "folded_head.nii.gz"])
    case = synthesise_case(heads, 0, 3, contrast="FLAIR", kind="mass")
    write_volume(case.scan, tmp_path / "scan.nii.gz")
    run(installed / "disyre", "detect", "scan.nii.gz", "-o", "result", folder=tmp_path)
    assert (tmp_path / "result" / "report.html").is_file()
