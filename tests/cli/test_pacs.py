"""`cfmri pacs`: from the archive into folders and back."""

from __future__ import annotations

import pytest

from cfmri_core.acquisition import PARAMETERS
from cfmri_core.dicom.read import read_series


@pytest.fixture
def stored(cfmri, orthanc, studies):
    done = cfmri("pacs", "store", orthanc.url, studies, "--json")
    assert done.code == 0
    return done.json()


def test_an_archive_is_filled_listed_and_fetched(cfmri, orthanc, series, stored, tmp_path):
    assert stored["present"] == 0
    assert len(stored["series_uids"]) == 4
    listed = cfmri("pacs", "list", orthanc.url, "--json").json()["series"]
    uids = {entry["series_uid"]: entry for entry in listed}
    assert set(uids) == set(stored["series_uids"])
    source = read_series(series)
    uid = str(source.headers[0].SeriesInstanceUID)
    assert uids[uid]["acquisition"] == source.acquisition.parameters.as_dict()
    assert list(uids[uid]["acquisition"]) == [parameter.name for parameter in PARAMETERS]
    done = cfmri("pacs", "fetch", orthanc.url, uid, tmp_path / "fetched", "--json")
    assert done.json()["images"] == len(source.headers)
    fetched = {file.read_bytes() for file in (tmp_path / "fetched").iterdir()}
    assert fetched == {file.read_bytes() for file in series.iterdir()}


def test_a_second_upload_sends_nothing(cfmri, orthanc, series, stored):
    again = cfmri("pacs", "store", orthanc.url, series)
    assert again.out.startswith("0 objects sent")
    assert set(orthanc.content().values()) == {1}


def test_an_edit_is_stored_and_known_as_one(cfmri, orthanc, series, models, stored, tmp_path):
    assert cfmri("edit", series, tmp_path / "edited", "--set", "echo_time_ms=2", "--steps", "1").code == 0
    assert cfmri("pacs", "store", orthanc.url, tmp_path / "edited").code == 0
    listed = cfmri("pacs", "list", orthanc.url, "--filter", "SeriesDescription=SYNTHETIC*", "--json").json()["series"]
    assert [entry["is_counterfactual"] for entry in listed] == [True]
    assert listed[0]["acquisition"]["echo_time_ms"] == 2
    assert "SYNTHETIC CF" in cfmri("pacs", "list", orthanc.url).out


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["list", "http://127.0.0.1:1/dicom-web", "--filter", "StudyDate"], 2, "no condition"),
        (["list", "http://pacs.hospital/dicom-web"], 2, "unencrypted"),
        (["fetch", "ORTHANC", "1.2.3", "OUT"], 8, "no such series"),
        (["fetch", "ORTHANC", "x", "OUT"], 2, "identifier"),
        (["store", "ORTHANC", "OUT"], 2, "no DICOM"),
        (["list", "ORTHANC/wrong"], 8, "Check the path"),
    ],
)
def test_refusals_are_one_line(cfmri, orthanc, tmp_path, arguments, code, says):
    given = [text.replace("ORTHANC", orthanc.url).replace("OUT", str(tmp_path / "out")) for text in arguments]
    done = cfmri("pacs", *given)
    assert done.code == code
    assert says in done.err
    assert done.err.count("\n") == 1
