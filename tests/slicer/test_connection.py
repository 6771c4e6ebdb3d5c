import pytest
from CounterfactualMRILib import problems
from CounterfactualMRILib.connection import Connection
from CounterfactualMRILib.problems import ServerProblem
from scripted_server import Answer


def test_the_server_is_asked_once(scripted):
    server = scripted()
    connection = Connection(server.address)
    assert connection.server is None
    connection.open()
    connection.openFor("counterfactual")
    assert len(server.received) == 1
    assert set(connection.server.trainers) == {"tissue_segmenter"}
    connection.renewed().open()
    assert len(server.received) == 2


def test_what_is_not_offered_is_told_with_what_is(scripted):
    with pytest.raises(ServerProblem) as caught:
        Connection(scripted().address).openFor("lesion_editor")
    assert "counterfactual" in caught.value.hint


def test_a_failed_question_is_asked_again(scripted):
    server = scripted({("GET", "/info/"): [Answer(401), Answer(401)]})
    connection = Connection(server.address, "token")
    for _ in range(2):
        with pytest.raises(ServerProblem) as caught:
            connection.open()
        assert caught.value.kind == problems.UNAUTHORIZED
    assert connection.server is None
