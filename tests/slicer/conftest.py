"""3D Slicer without the application: real MRML (slicer-core), PySide6 stand-ins for Qt, and a live server."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import slicer_paths  # noqa: F401 - puts the stand-ins and the module on the path
from live_server import served
from live_studies import simulated
from scripted_server import ScriptedServer

INSTALL = (
    "apt-get install -y --no-install-recommends libgl1 libegl1 libgl1-mesa-dri libxkbcommon0 libdbus-1-3, "
    "and pip install -e '.[test]'"
)
try:
    import slicer
    import vtk
    from PySide6.QtWidgets import QApplication
except ImportError as error:
    MISSING = f"3D Slicer's libraries are missing ({error}). Install: {INSTALL}"
else:
    MISSING = ""

#: These need neither Slicer nor Qt and run everywhere.
PURE = {
    "test_client.py",
    "test_connection.py",
    "test_datastore.py",
    "test_jobs.py",
    "test_multipart.py",
    "test_nifti.py",
    "test_packaging.py",
    "test_purity.py",
    "test_reader_study.py",
    "test_schema.py",
    "test_training.py",
    "test_transfer_folder.py",
    "test_verdict.py",
}


class LeftOut(pytest.Module):
    """A test file that cannot be imported here; it is skipped aloud."""

    def collect(self):
        raise pytest.skip.Exception(MISSING, allow_module_level=True)


def pytest_pycollect_makemodule(module_path, parent):
    """Skip what needs libraries that are not installed."""
    return LeftOut.from_parent(parent, path=module_path) if MISSING and module_path.name not in PURE else None


if not MISSING:

    @pytest.fixture(scope="session", autouse=True)
    def qapp(tmp_path_factory):
        """The Qt application, with settings of its own."""
        from PySide6.QtCore import QSettings

        application = QApplication.instance() or QApplication([])
        application.setOrganizationName("cfmri-tests")
        QSettings.setDefaultFormat(QSettings.IniFormat)
        QSettings.setPath(QSettings.IniFormat, QSettings.UserScope, str(tmp_path_factory.mktemp("settings")))
        return application

    @pytest.fixture(autouse=True)
    def scene(request):
        """An empty scene with the nodes that Slicer always has."""
        if Path(request.node.fspath).name in PURE:
            return None
        return slicer.startAgain()

    @pytest.fixture(autouse=True)
    def cpp_errors(scene):
        """What VTK and MRML printed as errors; any of them fails the test, unless the test empties the list."""
        errors = []

        @vtk.calldata_type(vtk.VTK_STRING)
        def record(_caller, _event, text):
            errors.append(text)

        window = vtk.vtkOutputWindow.GetInstance()
        tag = window.AddObserver("ErrorEvent", record)
        yield errors
        window.RemoveObserver(tag)
        assert not errors, "C++ errors:\n" + "\n".join(errors)

    @pytest.fixture
    def layout(scene):
        """The layout node and the slice logics of our two views, as Slicer's layout manager would make them."""
        from mrml_fixtures import Layout

        layout = Layout(scene)
        yield layout
        layout.close()

    @pytest.fixture
    def panel(layout):
        """The module's panel, with settings that nothing was written to."""
        import qt
        from CounterfactualMRI import CounterfactualMRIWidget

        qt.QSettings().clear()
        widget = CounterfactualMRIWidget()
        yield widget
        widget.cleanup()


@pytest.fixture
def scripted():
    """Start scripted servers: ``scripted({("GET", "/info/"): Answer(401)})``."""
    servers = []

    def start(script=None, certificate=None):
        servers.append(ScriptedServer(script, certificate))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture(scope="session")
def live_studies(tmp_path_factory) -> Path:
    """Three small simulated studies, as `cfmri simulate` writes them; nobody has labelled the last one."""
    root = simulated(tmp_path_factory.mktemp("studies"), subjects=3, seed=4200, slabMm=16)
    (sorted(root.glob("sub-*"))[-1] / "labels.nii.gz").unlink()
    return root


@pytest.fixture(scope="session")
def live_models(tmp_path_factory) -> Path:
    """The shipped models where there are any; else untrained ones, which answer all questions of the protocol."""
    import torch

    from cfmri_core.errors import CheckpointError
    from cfmri_core.models.conditioning import ConditionSpec
    from cfmri_core.models.editor import Editor
    from cfmri_core.models.iap_predictor import IapPredictor
    from cfmri_core.models.model_folder import locate_model
    from cfmri_core.models.segmenter import Segmenter
    from cfmri_core.simulation.protocols import PRESETS

    try:
        folders = {locate_model(kind).parent for kind in ("editor", "iap_predictor", "segmenter")}
        return folders.pop()
    except CheckpointError:
        torch.manual_seed(0)
    root = tmp_path_factory.mktemp("models")
    spec = ConditionSpec.from_parameters(list(PRESETS.values()))
    Editor.create("tiny", spec).save(root / "editor", "Untrained, for tests.")
    IapPredictor.create("tiny", spec).save(root / "iap_predictor", "Untrained, for tests.")
    Segmenter.create("tiny").save(root / "segmenter", "Untrained, for tests.")
    return root


@pytest.fixture(scope="session")
def live_server(live_studies, live_models, tmp_path_factory):
    """Address of a real `cfmri serve` on loopback, stopped at the end."""
    with served(live_studies, tmp_path_factory.mktemp("server") / "output.txt", live_models) as address:
        yield address
