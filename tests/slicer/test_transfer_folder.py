"""Where volumes lie on their way, and that they do not stay there."""

import os
import subprocess
import sys
import tempfile

import pytest
from CounterfactualMRILib import transfer_folder
from CounterfactualMRILib.transfer_folder import TransferFolder, sweepTransferFolders
from slicer_paths import MODULE


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
    """A folder for temporary files of this test alone."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def leftBy(scratch, ending):
    """Run a process that makes a folder with a volume and then ends; return what is left of it."""
    code = (
        f"import os, sys; sys.path.insert(0, {str(MODULE)!r})\n"
        "from CounterfactualMRILib.transfer_folder import TransferFolder\n"
        f"(TransferFolder().path / 'patient.nii').write_text('voxels'); {ending}"
    )
    environment = {**os.environ, "TMPDIR": str(scratch), "TEMP": str(scratch)}
    subprocess.run([sys.executable, "-c", code], env=environment, timeout=60, check=False)
    return list(scratch.iterdir())


def test_it_is_private_and_goes_away():
    folder = TransferFolder()
    (folder.path / "a").write_text("a")
    assert folder.path.stat().st_mode & 0o077 == 0
    folder.remove()
    folder.remove()
    assert not folder.path.exists()


def test_it_goes_when_the_process_ends(scratch):
    assert leftBy(scratch, "sys.exit(3)") == []


def test_what_a_killed_process_left_is_swept(scratch):
    (left,) = leftBy(scratch, "os._exit(3)")
    assert (left / "patient.nii").exists()
    own = TransferFolder()
    sweepTransferFolders()
    assert not left.exists()
    assert own.path.exists()
    own.remove()


def test_nothing_else_is_swept(scratch):
    (dead,) = leftBy(scratch, "os._exit(3)")
    target = scratch / "elsewhere"
    dead.rename(target)
    (scratch / dead.name).symlink_to(target)  # a link in its place
    (scratch / "CounterfactualMRI-notes").mkdir()
    (scratch / f"{dead.name}x").write_text("a file")
    sweepTransferFolders()
    assert (target / "patient.nii").exists()
    assert len(list(scratch.iterdir())) == 4


def test_a_folder_of_somebody_else_stays(scratch, monkeypatch):
    (left,) = leftBy(scratch, "os._exit(3)")
    monkeypatch.setattr(transfer_folder.os, "getuid", lambda: left.stat().st_uid + 1)
    sweepTransferFolders()
    assert left.exists()


def test_links_inside_are_not_followed(scratch):
    (left,) = leftBy(scratch, "os._exit(3)")
    kept = scratch / "kept"
    kept.mkdir()
    (kept / "mine.nii").write_text("voxels")
    (left / "link").symlink_to(kept)
    sweepTransferFolders()
    assert not left.exists()
    assert (kept / "mine.nii").exists()


def test_where_processes_cannot_be_asked_after_age_decides(scratch, monkeypatch):
    (left,) = leftBy(scratch, "os._exit(3)")
    monkeypatch.setattr(transfer_folder.os, "name", "nt")
    killed = []
    monkeypatch.setattr(transfer_folder.os, "kill", lambda *arguments: killed.append(arguments))
    assert not transfer_folder._isLeftBehind(left)
    os.utime(left, (0, 0))
    assert transfer_folder._isLeftBehind(left)
    assert not killed
