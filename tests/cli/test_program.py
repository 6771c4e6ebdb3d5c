"""Every way to fail ends in one line and the right exit code."""

import json
import os
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

import cfmri_core
from cfmri_core.cli import program
from cfmri_core.errors import Cancelled, CheckpointError, ResourceError

COMMANDS = (
    "doctor",
    "info",
    "simulate",
    "predict-iap",
    "edit",
    "segment",
    "train",
    "evaluate",
    "serve",
    "token",
    "audit",
)


def test_help_lists_every_command_and_says_not_for_diagnosis(cfmri):
    outcome = cfmri("--help")
    assert outcome.code == 0
    assert all(command in outcome.out for command in COMMANDS)
    assert "not for diagnosis" in outcome.out.replace("\n  ", " ")


@pytest.mark.parametrize("command", [*COMMANDS, "train editor", "train iap-predictor", "train segmenter"])
def test_every_command_has_help(cfmri, command):
    outcome = cfmri(*command.split(), "--help")
    assert outcome.code == 0
    assert "Usage" in outcome.out


def test_help_is_fast_because_nothing_heavy_is_imported():
    heavy = "import sys, cfmri_core.cli; print({'torch', 'monai', 'pydicom', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_version_is_that_of_the_package_and_of_the_distribution(cfmri):
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert cfmri("--version").out.strip() == cfmri_core.__version__ == project["version"]
    assert project["scripts"]["cfmri"] == "cfmri_core.cli:main"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nothing",), "No such command 'nothing'"),
        (("edit", "--nothing"), "No such option"),
        (("edit",), "Missing argument"),
        (("simulate", "x", "--subjects", "many"), "valid integer"),
        (("info", "does-not-exist"), "does-not-exist"),
    ],
)
def test_a_wrong_call_gives_one_line_on_standard_error(cfmri, arguments, words):
    outcome = cfmri(*arguments)
    assert outcome.code in (2, 3)
    assert outcome.out == ""
    assert outcome.err.startswith("cfmri: ")
    assert outcome.err.count("\n") == 1
    assert words.lower() in outcome.err.lower()


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (CheckpointError("No model.", "Train one."), 5, "cfmri: No model. Train one."),
        (Cancelled("Cancelled."), 130, "cfmri: Cancelled."),
        (KeyboardInterrupt(), 130, "cfmri: Cancelled."),
        (MemoryError(), ResourceError.exit_code, "Not enough memory"),
        (RuntimeError("CUDA out of memory."), ResourceError.exit_code, "Not enough memory"),
        (PermissionError(13, "Permission denied", "x"), ResourceError.exit_code, "Permission denied"),
        (ValueError("two\nlines"), 1, "Unexpected ValueError: two lines. Add --debug"),
    ],
)
def test_every_exception_becomes_one_line(cfmri, monkeypatch, error, code, words):
    def fail(*_args, **_kwargs):
        raise error

    monkeypatch.setattr(program, "app", fail)
    outcome = cfmri("doctor")
    assert outcome.code == code
    assert words in outcome.err
    assert outcome.err.count("\n") == 1


def test_debug_shows_the_traceback_wherever_it_stands(cfmri, monkeypatch):
    def fail(*_args, **_kwargs):
        raise ValueError("inside")

    monkeypatch.setattr(program, "app", fail)
    outcome = cfmri("info", "x", "--debug")
    assert "Traceback" in outcome.err
    assert outcome.code == 1


def test_a_reader_that_has_gone_is_no_traceback(series):
    command = f"{sys.executable} -m cfmri_core info {series} --json | head -c 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr


def test_ctrl_c_leaves_nothing_half_written(series, models, tmp_path):
    output = tmp_path / "out"
    command = [sys.executable, "-m", "cfmri_core", "edit", series, output, "--preset", "ge-hdx-3t", "--steps", "900"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert process.stderr is not None
    while "editing" not in process.stderr.readline():
        assert process.poll() is None
    time.sleep(0.2)
    process.send_signal(2)
    _, messages = process.communicate(timeout=60)
    assert process.returncode == 130
    assert messages.splitlines()[-1] == "cfmri: Cancelled."
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_is_not_utf8_is_printed_escaped_and_fails_nothing(series, tmp_path):
    folder = tmp_path / os.fsdecode(b"odd\xff")
    folder.symlink_to(series)
    run = [sys.executable, "-m", "cfmri_core"]
    told = subprocess.run([*run, "info", folder, "--json"], capture_output=True, check=True)
    assert json.loads(told.stdout.decode("utf-8"))["path"] == str(folder)
    program = "import sys, typer\nfrom cfmri_core.cli import program\n"
    program += "program.app.command('say')(lambda: typer.echo(sys.argv[2]))\nprogram.main(['say'])"
    told = subprocess.run([sys.executable, "-c", program, "-", os.fsdecode(b"\xff")], capture_output=True, check=True)
    assert told.stdout == b"\\udcff\n"
