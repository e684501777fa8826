"""Puts the bundled models, anatomies, configs and terminology into the wheel; all else stands in pyproject.toml."""

from __future__ import annotations

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

BUNDLED = ("Models/*/*", "Anatomy/*", "Configs/*", "*.term.json")
"""Of the folder `Resources`, which a checkout has beside the package and a wheel inside it."""


class BuildWithResources(build_py):
    """Copies `BUNDLED` to `DISYRECore/Resources`, where `DISYRECore.io.files.resources` looks first."""

    def run(self) -> None:
        """Builds the package; an editable install uses the checkout's own resources."""
        super().run()
        if not self.editable_mode:
            for target, source in self._bundled().items():
                self.mkpath(str(Path(target).parent))
                self.copy_file(source, target)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """What `run` makes."""
        return [*super().get_outputs(include_bytecode), *([] if self.editable_mode else self._bundled())]

    def get_source_files(self) -> list[str]:
        """What a source distribution has to hold."""
        return [*super().get_source_files(), *self._bundled().values()]

    def _bundled(self) -> dict[str, str]:
        """Sources by target."""
        package = Path(self.build_lib, "DISYRECore")
        paths = (path for pattern in BUNDLED for path in Path("Resources").glob(pattern) if path.is_file())
        return {str(package / path): str(path) for path in sorted(paths)}


setup(cmdclass={"build_py": BuildWithResources})
