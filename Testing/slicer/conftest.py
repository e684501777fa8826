"""One application in a process; every test gets an empty scene."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import harness
import pytest
from harness.disyre import load_module

from DISYRECore.apps.worker import Worker


@pytest.fixture(scope="session")
def application() -> Any:
    """The application."""
    return harness.start()


@pytest.fixture
def desktop(application: Any) -> Iterator[Any]:
    """An empty scene; nothing may go wrong unnoticed in a test."""
    application.clear()
    application.errors.clear()
    application.qt_messages.clear()
    known = len(application.vtk_errors())
    yield application
    assert not application.errors
    assert not application.qt_messages
    assert not application.vtk_errors()[known:]


@pytest.fixture(scope="session")
def _module(application: Any) -> Iterator[None]:
    import slicer

    load_module(application)
    yield
    application.open("DISYRE").logic.close()
    slicer.modules.disyre.logic().close()


@pytest.fixture
def widget(desktop: Any, _module: None) -> Iterator[Any]:
    """The module's widget, open."""
    yield desktop.open("DISYRE")
    logic = desktop.open("DISYRE").logic
    if logic.running:
        logic.cancel()
        desktop.wait_until(lambda: not logic.running)


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The demo scan with its truth, as the worker makes them."""
    worker = Worker(io.StringIO(), print)
    paths = worker.demo(lambda *_args: None, str(tmp_path_factory.mktemp("demo")))
    return {name: Path(path) for name, path in paths.items()}
