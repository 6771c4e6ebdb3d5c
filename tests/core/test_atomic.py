import errno
import os
import shutil
import stat
from pathlib import Path

import pytest

from cfmri_core.errors import RequestError, ResourceError
from cfmri_core.io.atomic import atomic_folder, require_empty, require_replaceable


def written(target, text="new"):
    with atomic_folder(target) as partial:
        (partial / "a").write_text(text)
    return target


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def half_written(target):
    with atomic_folder(target) as partial:
        (partial / "a").write_text("new")
        assert not target.exists()
        raise ValueError("half")


def test_folder_is_there_whole_or_not_at_all(tmp_path):
    with pytest.raises(ValueError, match="half"):
        half_written(tmp_path / "out")
    assert names(tmp_path) == []
    assert names(written(tmp_path / "deep" / "out")) == ["a"]
    assert names(tmp_path / "deep") == ["out"]


def test_earlier_folder_is_replaced_or_stays(tmp_path, monkeypatch):
    target = written(tmp_path / "out", "old")
    written(target)
    assert (target / "a").read_text() == "new"
    replace = os.replace

    def failing(source, place):
        if Path(source).name == "new":
            raise OSError(errno.EIO, "broken")
        replace(source, place)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(ResourceError, match="broken"):
        written(target, "newer")
    assert (target / "a").read_text() == "new"
    assert names(tmp_path) == ["out"]


def test_link_is_followed_and_stays(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    for destination in ("elsewhere", "absent"):
        link = tmp_path / f"to-{destination}"
        link.symlink_to(tmp_path / destination)
        require_replaceable(link)
        written(link)
        assert link.is_symlink()
        assert names(tmp_path / destination) == ["a"]
    assert names(tmp_path) == ["absent", "elsewhere", "to-absent", "to-elsewhere"]


@pytest.mark.parametrize("umask", [0o027, 0o002, 0o077])
def test_umask_decides_who_may_read(tmp_path, umask):
    before = os.umask(umask)
    try:
        target = written(tmp_path / "out")
    finally:
        os.umask(before)
    assert stat.S_IMODE(target.stat().st_mode) == 0o777 & ~umask
    assert stat.S_IMODE((target / "a").stat().st_mode) == 0o666 & ~umask


def test_what_is_in_use_is_refused(tmp_path):
    written(tmp_path / "out")
    for check in (require_empty, require_replaceable):
        with pytest.raises(RequestError, match="exists already"):
            check(tmp_path / "out")
        with pytest.raises(RequestError, match="exists already"):
            check(tmp_path / "out" / "a")


def test_empty_and_new_folders_are_left_as_they_are(tmp_path):
    (tmp_path / "empty").mkdir(0o700)
    before = (tmp_path / "empty").stat()
    require_replaceable(tmp_path / "empty")
    require_replaceable(tmp_path / "new" / "below")
    assert names(tmp_path) == ["empty"]
    assert (tmp_path / "empty").stat().st_ino == before.st_ino


def test_current_folder_is_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in (Path(), tmp_path):
        with pytest.raises(RequestError, match=r"it is the current folder.*Give a new folder in it, such as .*result"):
            require_replaceable(folder)


def test_mount_point_is_refused_before_any_work(tmp_path, monkeypatch):
    (tmp_path / "mounted").mkdir()

    def busy(*paths):
        raise OSError(errno.EBUSY, "Device or resource busy")

    monkeypatch.setattr(os, "replace", busy)
    with pytest.raises(RequestError, match=r"mounted: no result .* \(Device or resource busy\).*new folder in it"):
        require_replaceable(tmp_path / "mounted")
    assert names(tmp_path) == ["mounted"]


def test_place_that_cannot_be_written_is_refused_before_any_work():
    with pytest.raises(RequestError, match=r"/proc/result: no result .*Give another folder"):
        require_replaceable(Path("/proc/result"))


def test_a_full_disk_is_named_even_where_a_library_wraps_it(tmp_path):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def as_pydicom():
        try:
            raise full
        except OSError as error:
            raise OSError(f"With tag got exception: {error}\nTraceback (most recent call last):") from error

    def as_shutil():
        raise shutil.Error([("from", "to", f"{full}: 'from' -> 'to'")])

    for failing in (as_pydicom, as_shutil):
        with (
            pytest.raises(ResourceError, match=r"Cannot write .*No space left on device") as caught,
            atomic_folder(tmp_path / "out"),
        ):
            failing()
        assert "Traceback" not in caught.value.message
        assert "[(" not in caught.value.message
