"""A stand-in for Slicer's Sample Data module: keeps what is registered, downloads nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import slicer

BUILT_IN = ("MRHead", "MRBrainTumor1", "MRBrainTumor2")


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


@dataclass
class SampleDataSource:
    """One entry; one value or equally long lists of files, addresses and node names."""

    sampleName: str | None = None
    sampleDescription: str | None = None
    uris: Any = None
    fileNames: Any = None
    nodeNames: Any = None
    checksums: Any = None
    loadFiles: Any = None
    customDownloader: Any = None
    thumbnailFileName: str | None = None
    loadFileType: Any = "VolumeFile"
    loadFileProperties: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.sampleDescription = self.sampleDescription or self.sampleName
        self.uris, self.fileNames, self.nodeNames = map(_listed, (self.uris, self.fileNames, self.nodeNames))
        if not len(self.uris) == len(self.fileNames) == len(self.nodeNames):
            raise ValueError("All fields of sample data source must have the same length")


class SampleDataLogic:
    """Registers sources by category."""

    def __init__(self, logMessage: Any = None) -> None:
        for name in BUILT_IN:
            self.registerCustomSampleDataSource("General", name, "https://", f"{name}.nrrd", name)

    @staticmethod
    def registerCustomSampleDataSource(
        category: str = "Custom",
        sampleName: str | None = None,
        uris: Any = None,
        fileNames: Any = None,
        nodeNames: Any = None,
        customDownloader: Any = None,
        thumbnailFileName: str | None = None,
        loadFileType: Any = "VolumeFile",
        loadFiles: Any = None,
        loadFileProperties: Any = None,
        checksums: Any = None,
    ) -> None:
        source = SampleDataSource(
            sampleName=sampleName,
            uris=uris,
            fileNames=fileNames,
            nodeNames=nodeNames,
            customDownloader=customDownloader,
            thumbnailFileName=thumbnailFileName,
            loadFileType=loadFileType,
            loadFiles=loadFiles,
            loadFileProperties=loadFileProperties or {},
            checksums=checksums,
        )
        listed = slicer.modules.sampleDataSources.setdefault(category, [])
        if source not in listed:
            listed.append(source)

    @staticmethod
    def sampleDataSourcesByCategory(category: str | None = None) -> Any:
        sources = slicer.modules.sampleDataSources
        return sources if category is None else sources.get(category, [])

    def sourceForSampleName(self, name: str) -> SampleDataSource | None:
        sources = (source for listed in slicer.modules.sampleDataSources.values() for source in listed)
        return next((source for source in sources if source.sampleName == name), None)

    def downloadSamples(self, name: str) -> list[Any]:
        """Runs the custom downloader of a source, the only kind that needs no network."""
        source = self.sourceForSampleName(name)
        if source is None or not source.customDownloader:
            raise RuntimeError(f"No sample data that works without a network: {name}")
        return list(source.customDownloader(source) or [])

    def downloadSample(self, name: str) -> Any:
        return self.downloadSamples(name)[0]
