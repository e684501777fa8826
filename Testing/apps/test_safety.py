"""What detection lets in and out: no network, no names, no pickles."""

from __future__ import annotations

import ast
import gzip
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from support import ROOT, write_dicom

from DISYRECore.io.volume import Volume
from DISYRECore.io.write import write_volume
from DISYRECore.synthesis.anatomy import load_anatomies
from DISYRECore.synthesis.test_set import synthesise_case

NO_SOCKETS = """
import socket, sys
def refuse(*arguments, **named):
    raise PermissionError("sockets are forbidden")
socket.socket.__init__ = refuse
for name in ("create_connection", "getaddrinfo", "socketpair", "gethostbyname"):
    setattr(socket, name, refuse)
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("distributed", "dask"):
            raise SystemExit(f"{name} was imported")
sys.meta_path.insert(0, Refuse())
from DISYRECore.apps.cli import main
sys.exit(main(sys.argv[1:]))
"""

WHO = {
    "PatientName": "Quixote^Alonso",
    "PatientID": "LaMancha1605",
    "OtherPatientIDs": "Rocinante77",
    "PatientBirthDate": "15470929",
    "PatientAddress": "Windmill Street",
    "PatientComments": "fond of Dulcinea",
    "ReferringPhysicianName": "Panza^Sancho",
    "InstitutionName": "Toboso Hospital",
    "StudyDate": "16050116",
    "SeriesDate": "16050117",
    "AcquisitionDate": "16050118",
    "ContentDate": "16050119",
    "StudyID": "Barataria9",
    "AccessionNumber": "Clavileno4",
    "StudyDescription": "Brain of Alonso",
    "SeriesDescription": "FLAIR for Dulcinea",
    "ProtocolName": "FLAIR Toboso",
}
SECRETS = [
    part.encode()
    for value in WHO.values()
    for part in value.replace("^", " ").split()
    if part not in "FLAIR Brain of for fond"
]


@pytest.fixture(scope="module")
def scan() -> Volume:
    anatomy = load_anatomies([ROOT / "Resources" / "Anatomy" / "folded_head.nii.gz"])
    return synthesise_case(anatomy, 0, 3, contrast="FLAIR", kind="mass", spacing_mm=4.0).scan


def disyre(*arguments: str, code: str = NO_SOCKETS) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, env=environment)


@pytest.mark.parametrize("method", ["z-score", "disyre-v2"])
def test_detection_works_with_sockets_forbidden(scan: Volume, tmp_path: Path, method: str) -> None:
    write_volume(scan, tmp_path / "in.nii.gz")
    done = disyre("detect", str(tmp_path / "in.nii.gz"), "-o", str(tmp_path / "out"), "--method", method)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "report.html").exists()


def named_series(folder: Path, scan: Volume) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    write_dicom(folder, Volume(np.rint(scan.voxels).astype(np.uint16), scan.affine))
    for path in folder.iterdir():
        file = pydicom.dcmread(path)
        for name, value in WHO.items():
            setattr(file, name, value)
        file.save_as(path)


def test_no_name_and_no_date_of_a_patient_gets_out_of_a_dicom_series(scan: Volume, tmp_path: Path) -> None:
    """Neither of one that is read nor of one that is refused."""
    named_series(tmp_path / "in" / "good" / "1", scan)
    named_series(tmp_path / "in" / "bad" / "1", scan)
    sorted((tmp_path / "in" / "bad" / "1").iterdir())[3].unlink()
    cut = sorted((tmp_path / "in" / "bad" / "1").iterdir())[0]
    cut.write_bytes(cut.read_bytes()[:-500])
    done = disyre("detect", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--method", "z-score")
    assert done.returncode == 2, done.stderr
    assert (tmp_path / "out" / "good" / "1" / "report.html").exists()
    written = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    texts = {"stdout": done.stdout, "stderr": done.stderr}
    for path, content in written.items():
        texts[str(path)] = gzip.decompress(content) if path.suffix == ".gz" else content
        texts[f"name of {path}"] = path.name.encode() + content[:64]
    for place, text in texts.items():
        for secret in SECRETS:
            assert secret not in text, f"{secret!r} in {place}"


LOADERS = ("pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "cloudpickle", "jsonpickle", "pandas")
"""Modules that execute what they load."""


def unsafe_calls(tree: ast.AST) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            found += [name for name in names if name.split(".")[0] in LOADERS]
        elif isinstance(node, ast.Call):
            call, named = ast.unparse(node.func), {one.arg: ast.unparse(one.value) for one in node.keywords}
            if call in ("torch.load", "torch.jit.load", "torch.save", "eval", "exec", "compile", "yaml.load"):
                found.append(call)
            if named.get("allow_pickle", "False") != "False" or named.get("weights_only", "True") != "True":
                found.append(f"{call}({named})")
    return found


def test_nothing_that_is_loaded_from_disk_is_executed() -> None:
    files = [path for folder in ("DISYRECore", "DISYRE", "examples") for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 100
    assert {str(path): calls for path in files if (calls := unsafe_calls(ast.parse(path.read_text())))} == {}


@pytest.mark.parametrize(
    "code",
    ["import pickle", "from joblib import load", "torch.load(x)", "np.load(x, allow_pickle=True)", "yaml.load(x)"],
)
def test_the_search_finds_what_it_looks_for(code: str) -> None:
    assert unsafe_calls(ast.parse(code))
