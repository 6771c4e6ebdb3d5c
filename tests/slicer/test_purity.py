"""The client's part of the extension runs on a bare Python, and all of it is Python 3.9."""

import ast
import re
import subprocess
import sys

import pytest
from slicer_paths import MODULE

PURE_MODULES = (
    "problems", "multipart", "schema", "client", "connection", "datastore", "training", "nifti", "jobs", "reader_study",
    "transfer_folder", "verdict",
)  # fmt: skip
SOURCES = sorted(MODULE.rglob("*.py"))
BLOCKED = ("torch", "monai", "monailabel", "numpy", "slicer", "qt", "ctk", "vtk", "cfmri_core", "PySide6")


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_syntax_of_python_3_9(source):
    ast.parse(source.read_text(encoding="utf-8"), feature_version=(3, 9))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_no_union_operator_at_run_time(source):
    """``X | None`` is evaluated in a module without the future import, and Python 3.9 cannot."""
    text = source.read_text(encoding="utf-8")
    usesUnion = re.search(r"(:|->)\s*[\w\[\], .]+ \| ", text)
    assert not usesUnion or "from __future__ import annotations" in text


def test_client_works_where_nothing_is_installed():
    code = f"""
import sys
for name in {BLOCKED!r}:
    sys.modules[name] = None
sys.path.insert(0, {str(MODULE)!r})
from CounterfactualMRILib import {", ".join(PURE_MODULES)}
try:
    client.Client("127.0.0.1:9").describe()
except problems.ServerProblem as problem:
    print(problem.kind)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == "unreachable", done.stderr


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_nothing_slow_is_imported_at_file_scope(source):
    """Slicer imports every module when it starts."""
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) else []
        assert not {name.split(".")[0] for name in names} & {"requests", "pydicom", "numpy"}


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_only_modules_that_slicer_has_are_imported(source):
    allowed = {
        *sys.stdlib_module_names,
        "requests",
        "numpy",
        "slicer",
        "vtk",
        "qt",
        "ctk",
        "SampleData",
        "CounterfactualMRILib",
        "CounterfactualMRI",
    }
    imported = set()
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module.split(".")[0])
    assert imported <= allowed
    isQtFree = source.stem in (
        *PURE_MODULES,
        "exchange",
        "acquisition",
        "cases",
        "difference",
        "results",
        "segmentation",
        "uncertainty",
        "volume_display",
        "layout",
        "logic",
        "parameter_node",
        "training_curve",
    )
    assert not (isQtFree and imported & {"qt", "ctk"})
