import pytest
from CounterfactualMRILib import problems
from CounterfactualMRILib.client import Client
from CounterfactualMRILib.datastore import Datastore
from CounterfactualMRILib.problems import Cancelled, ServerProblem
from scripted_server import Answer

ID = "a/b c"  # no id of our server; every id must be quoted all the same
IMAGE = ("GET", "/datastore/image?image=a%2Fb+c")


def datastore(server):
    return Datastore(Client(server.address))


def test_the_next_image_and_none_when_nothing_is_left(scripted):
    path = ("POST", "/activelearning/random")
    server = scripted({path: [Answer(body={"id": ID, "message": "Oldest."}), Answer(body={}), Answer(body={"id": 7})]})
    assert datastore(server).next("random") == (ID, "Oldest.")
    assert datastore(server).next("random") == (None, "")
    with pytest.raises(ServerProblem) as caught:
        datastore(server).next("random")
    assert caught.value.kind == problems.UNREADABLE


def test_images_are_listed_in_order(scripted):
    server = scripted({("GET", "/datastore/?output=all"): [Answer(body={"objects": {"b": {}, "a": {}}}), Answer()]})
    assert datastore(server).images() == ["a", "b"]
    assert datastore(server).images() == []


def test_counts(scripted):
    server = scripted({("GET", "/datastore/"): [Answer(body={"completed": 3, "total": 12}), Answer(body={})]})
    assert str(datastore(server).counts()) == "3 of 12 labelled"
    with pytest.raises(ServerProblem):
        datastore(server).counts()


def test_acquisition_is_what_the_server_knows(scripted):
    path = ("GET", "/datastore/image/info?image=a%2Fb+c")
    server = scripted({path: [Answer(body={"acquisition": {"echo_time_ms": 2.4}}), Answer(body={"ts": 1})]})
    assert datastore(server).acquisition(ID) == {"echo_time_ms": 2.4}
    assert datastore(server).acquisition(ID) == {}


def test_an_image_is_fetched_with_progress(scripted, tmp_path):
    reports = []
    server = scripted({IMAGE: Answer(body=bytes(200_000), contentType="application/octet-stream")})
    path = datastore(server).fetch(ID, tmp_path, lambda *report: reports.append(report))
    assert path.read_bytes() == bytes(200_000)
    assert reports[-1] == (200_000, 200_000, "Receiving 0.2 of 0.2 MB")
    with pytest.raises(Cancelled):
        datastore(server).fetch(ID, tmp_path, isCancelled=lambda: True)


def test_an_image_is_stored_under_a_random_name_with_its_acquisition(scripted, tmp_path):
    path = tmp_path / "Jane Doe.nii.gz"
    path.write_bytes(b"voxels")
    server = scripted()
    server.answerTo = lambda method, path: Answer(body={})
    imageId = datastore(server).store(path, {"echo_time_ms": 2.4})
    method, asked, _, body = server.received[0]
    assert (method, asked) == ("PUT", f"/datastore/image?image={imageId}")
    assert b'{"acquisition": {"echo_time_ms": 2.4}}' in body
    assert b"voxels" in body
    assert b"Jane" not in body
    assert imageId != datastore(server).store(path, {})


def test_a_label_is_stored_as_final(scripted, tmp_path):
    path = tmp_path / "l.nii.gz"
    path.write_bytes(b"labels")
    server = scripted({("PUT", "/datastore/label?image=x&tag=final"): Answer(body={})})
    datastore(server).label("x", path)
    assert b'name="label"; filename="' in server.received[0][3]
    with pytest.raises(Cancelled):
        datastore(server).label("x", path, isCancelled=lambda: True)
    with pytest.raises(ServerProblem, match="does not know this image"):
        datastore(server).label("y", path)


def test_a_connection_that_breaks_off_during_a_download_is_told(scripted, tmp_path):
    server = scripted({IMAGE: Answer(body=bytes(200_000), cut=100_000)})
    with pytest.raises(ServerProblem) as caught:
        datastore(server).fetch(ID, tmp_path)
    assert caught.value.kind == problems.LOST
