"""Brings pictures and model cards from `Resources` into the site, so that they stand in the repository once."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

RESOURCES = Path(__file__).resolve().parents[1] / "Resources"
PLACES = {"Screenshots": "pictures", "Models": "models"}
"""Folders of `Resources`, and where they go in the site."""

SUFFIXES = (".md", ".png")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds cards and pictures."""
    for folder, place in PLACES.items():
        for path in sorted((RESOURCES / folder).rglob("*")):
            if path.suffix in SUFFIXES:
                inside = path.relative_to(RESOURCES / folder).as_posix()
                files.append(File.generated(config, f"{place}/{inside}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Makes links that hold in the repository hold in the site."""
    for folder, place in PLACES.items():
        markdown = markdown.replace(f"../Resources/{folder}/", f"{place}/")
    return markdown.replace("](../../../docs/", "](../../")
