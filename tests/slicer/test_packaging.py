"""The extension configures as Slicer's factory would configure it, and ships every file."""

import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree

import pytest
from slicer_paths import MODULE, ROOT

#: Published by Slicer (Schemas/slicer-extension-catalog-entry-schema-v1.0.2.json), reduced to what it checks.
SCHEMA = {
    "type": "object",
    "required": ["$schema", "category", "scm_url"],
    "additionalProperties": False,
    "properties": {
        "$schema": {"type": "string", "pattern": r"^https://raw\.githubusercontent\.com/Slicer/Slicer/main/Schemas/"},
        "build_dependencies": {"type": "array", "items": {"type": "string"}},
        "build_subdirectory": {"type": "string"},
        "category": {"type": "string"},
        "scm_revision": {"type": "string"},
        "scm_url": {"type": "string", "pattern": r"^https://.+\.git$"},
        "tier": {"type": "integer", "minimum": 1, "maximum": 5},
    },
}
STUB = """
set(Slicer_FOUND TRUE)
set(Slicer_USE_FILE ${CMAKE_CURRENT_LIST_DIR}/UseSlicer.cmake)
set(Slicer_EXTENSION_GENERATE_CONFIG ${CMAKE_CURRENT_LIST_DIR}/GenerateConfig.cmake)
set(Slicer_EXTENSION_CPACK ${CMAKE_CURRENT_LIST_DIR}/CPack.cmake)
"""
USE = """
function(slicerMacroBuildScriptedModule)
  cmake_parse_arguments(M "WITH_GENERIC_TESTS" "NAME" "SCRIPTS;RESOURCES" ${ARGN})
  foreach(file ${M_SCRIPTS} ${M_RESOURCES})
    if(NOT EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/${file})
      message(SEND_ERROR "listed but missing: ${file}")
    endif()
  endforeach()
  file(GLOB_RECURSE disk RELATIVE ${CMAKE_CURRENT_SOURCE_DIR} *.py Resources/*)
  foreach(file ${disk})
    if(NOT file IN_LIST M_SCRIPTS AND NOT file IN_LIST M_RESOURCES AND NOT file MATCHES "^Testing/")
      message(SEND_ERROR "on disk but not packaged: ${file}")
    endif()
  endforeach()
endfunction()
function(slicer_add_python_unittest)
  cmake_parse_arguments(T "" "SCRIPT" "" ${ARGN})
  if(NOT EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/${T_SCRIPT})
    message(SEND_ERROR "test script missing: ${T_SCRIPT}")
  endif()
endfunction()
"""
GENERATE = """
foreach(name HOMEPAGE CONTRIBUTORS DESCRIPTION ICONURL SCREENSHOTURLS DEPENDS)
  if("${EXTENSION_${name}}" STREQUAL "")
    message(SEND_ERROR "EXTENSION_${name} is not set")
  endif()
endforeach()
"""


def configure(tmp_path, source=ROOT):
    stub = tmp_path / "stub"
    stub.mkdir()
    for name, text in (("SlicerConfig", STUB), ("UseSlicer", USE), ("GenerateConfig", GENERATE), ("CPack", "")):
        (stub / f"{name}.cmake").write_text(text)
    command = [
        shutil.which("cmake"),
        "-S",
        source,
        "-B",
        tmp_path / "build",
        f"-DSlicer_DIR={stub}",
        "-DBUILD_TESTING=ON",
    ]
    # A compiler is asked for by project(), which Slicer's template has; without one there is nothing to learn here.
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


needs_cmake = pytest.mark.skipif(
    not shutil.which("cmake") or not shutil.which("cc"),
    reason="needs cmake and a C compiler: apt-get install build-essential",
)


@needs_cmake
def test_every_file_is_packaged(tmp_path):
    done = configure(tmp_path)
    assert done.returncode == 0, done.stderr


@needs_cmake
def test_a_forgotten_file_is_caught(tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(ROOT / "CMakeLists.txt", copy)
    shutil.copytree(MODULE, copy / "slicer_extension" / "CounterfactualMRI")
    (copy / "slicer_extension" / "CounterfactualMRI" / "CounterfactualMRILib" / "new.py").touch()
    done = configure(tmp_path, copy)
    assert done.returncode != 0
    assert "on disk but not packaged: CounterfactualMRILib/new.py" in done.stderr


def test_catalogue_entry():
    jsonschema = pytest.importorskip("jsonschema")
    path = ROOT / "CounterfactualMRI.json"
    assert b"\r" not in path.read_bytes()
    entry = json.loads(path.read_text())
    jsonschema.validate(entry, SCHEMA)
    assert entry["category"] == "Image Synthesis"
    project = re.search(r"^project\((\w+)\)", (ROOT / "CMakeLists.txt").read_text(), re.MULTILINE)
    assert project.group(1) == path.stem


def test_metadata_stands_on_one_line_each():
    text = (ROOT / "CMakeLists.txt").read_text()
    for name in ("HOMEPAGE", "CONTRIBUTORS", "DESCRIPTION", "ICONURL", "SCREENSHOTURLS", "DEPENDS"):
        assert re.search(rf'^set\(EXTENSION_{name} "[^"\n]+"\)$', text, re.MULTILINE), name


def test_icon_is_128_pixels_square():
    header = (MODULE / "Resources" / "Icons" / "CounterfactualMRI.png").read_bytes()[:24]
    assert header[:4] == b"\x89PNG"
    assert header[16:24] == (128).to_bytes(4, "big") * 2


def test_ui_uses_known_widgets_and_existing_parameters():
    root = ElementTree.parse(MODULE / "Resources" / "UI" / "CounterfactualMRI.ui").getroot()
    declared = {widget.findtext("class") for widget in root.iter("customwidget")}
    used = {widget.get("class") for widget in root.iter("widget")}
    assert {name for name in used if not name.startswith("Q")} == declared
    allowed = {
        "ctkCollapsibleButton",
        "ctkSliderWidget",
        "ctkComboBox",
        "ctkPathLineEdit",
        "qMRMLWidget",
        "qMRMLNodeComboBox",
    }
    assert declared <= allowed
    fields = (MODULE / "CounterfactualMRILib" / "parameter_node.py").read_text()
    bound = [entry.findtext("string") for entry in root.iter("property") if entry.get("name") == "SlicerParameterName"]
    assert bound
    assert all(re.search(rf"^    {name}: ", fields, re.MULTILINE) for name in bound)
    names = [widget.get("name") for widget in root.iter("widget")]
    assert len(names) == len(set(names))
