"""An entry of Slicer's Sample Data module: a case of the server, where `make serve` has simulated ones."""

from __future__ import annotations

import slicer

from CounterfactualMRILib.layout import showInSliceViews
from CounterfactualMRILib.logic import CounterfactualMRILogic
from CounterfactualMRILib.problems import Problem
from CounterfactualMRILib.server_section import lastAddress

CATEGORY, NAME = "Counterfactual MRI", "Case of the cfmri server"


def registerSampleData(thumbnail: str) -> None:
    """Offer the case; nothing is downloaded before somebody asks for it.

    Args:
        thumbnail: Picture to show.
    """
    import SampleData  # a module of Slicer, there once the application has started

    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category=CATEGORY,
        sampleName=NAME,
        uris="",  # it comes from the user's own server, wherever that is
        fileNames="",
        nodeNames=NAME,
        customDownloader=loadSample,
        thumbnailFileName=thumbnail,
    )


def loadSample(source=None) -> list:  # noqa: ARG001 - what Sample Data passes
    """Load the first case of the server that was used last; without a server, say how to start one."""
    try:
        node, *_ = CounterfactualMRILogic(lastAddress()).firstCase()
    except Problem as problem:
        slicer.util.errorDisplay(str(problem))
        return []
    if node is None:
        return []
    showInSliceViews(node)
    return [node]
