"""The audit log: nothing of it changes unnoticed, no id is spelled out, a kill costs at most one line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from cfmri_server.audit import TORN, AuditLog, BrokenLogError, find, verify

from app.conftest import APP
from cfmri_core.errors import RequestError, ResourceError

PATIENT = "Doe-John-19700101"


@pytest.fixture
def log(tmp_path):
    return AuditLog(tmp_path / "audit")


def written(log, count=3):
    for number in range(count):
        log.append({"who": "ann", "action": "infer", "image": f"{PATIENT}-{number}", "status": 200})
    return log.path


def test_lines_are_json_and_each_names_the_one_before(log):
    lines = [json.loads(line) for line in written(log).read_text().splitlines()]
    assert [line["previous"] for line in lines] == ["0" * 64, *(line["hash"] for line in lines[:-1])]
    assert verify(log.path).last_hash == lines[-1]["hash"]
    assert verify(log.path).lines == 3


def test_ids_are_hashed_with_a_key_and_can_be_looked_up_with_it(log):
    path = written(log)
    assert PATIENT not in path.read_text()
    assert [event["who"] for event in find(path, f"{PATIENT}-1")] == ["ann"]
    assert find(path, "somebody-else") == []
    (path.parent / "key").unlink()
    with pytest.raises(RequestError, match="key"):
        find(path, f"{PATIENT}-1")


def test_only_the_servers_account_can_read_it(log):
    path = written(log)
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert {file.name: file.stat().st_mode & 0o777 for file in (path, path.parent / "key")} == {
        "audit.jsonl": 0o600,
        "key": 0o600,
    }


def test_altering_any_byte_is_found(log):
    path = written(log)
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(BrokenLogError, match="line"):
            verify(path)


def test_lines_taken_out_swapped_or_repeated_are_found(log):
    one, two, three = written(log).read_bytes().splitlines(keepends=True)
    for lines, first_bad in (((one, three), 2), ((two, three), 1), ((one, three, two), 2), ((one, one, two), 2)):
        log.path.write_bytes(b"".join(lines))
        with pytest.raises(BrokenLogError, match=f"line {first_bad} does not follow"):
            verify(log.path)


def test_an_end_that_was_cut_off_is_found_by_a_hash_noted_before(log):
    noted = verify(written(log)).last_hash
    log.append({"who": "ann", "action": "infer"})
    assert verify(log.path, noted).lines == 4
    lines = log.path.read_bytes().splitlines(keepends=True)
    log.path.write_bytes(b"".join(lines[:2]))
    assert verify(log.path).lines == 2
    with pytest.raises(BrokenLogError, match="cut off"):
        verify(log.path, noted)


def test_a_torn_line_is_mended_and_noted_wherever_it_was_torn(log):
    whole = written(log).read_bytes()
    start = whole.rindex(b"\n", 0, -1) + 1
    for cut in range(start + 1, len(whole)):
        log.path.write_bytes(whole[:cut])
        with pytest.raises(BrokenLogError, match="line 3 is torn"):
            verify(log.path)
        AuditLog(log.path.parent).append({"who": "ann", "action": "after"})
        assert verify(log.path).torn == 1
        note = json.loads(log.path.read_bytes().splitlines()[2])
        assert (note["action"], note["torn"]) == (TORN, whole[start:cut].decode())


def test_a_log_whose_end_was_changed_takes_no_more_lines(log):
    path = written(log)
    path.write_bytes(path.read_bytes().replace(b'"status":200', b'"status":500'))
    before = path.read_bytes()
    with pytest.raises(ResourceError, match="was changed"):
        log.append({"who": "ann", "action": "infer"})
    assert path.read_bytes() == before


def test_what_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "audit").write_text("a file where the folder should be")
    with pytest.raises(ResourceError, match="audit log"):
        AuditLog(tmp_path / "audit").append({"who": "ann", "action": "infer"})


WRITER = f"""
import sys; sys.path.insert(0, {str(APP)!r})
from pathlib import Path
from cfmri_server.audit import AuditLog
log = AuditLog(Path(sys.argv[1]))
number = 0
while True:
    log.append({{"who": "ann", "action": "infer", "number": number}})
    number += 1
    print(number, flush=True)
"""


def test_it_survives_being_killed_and_loses_no_event_that_was_confirmed(log):
    confirmed = 0
    for _ in range(3):
        command = [sys.executable, "-c", WRITER, str(log.path.parent)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            writer.stdout.readline()
            time.sleep(0.1)
            os.kill(writer.pid, signal.SIGKILL)
            confirmed += 1 + len(writer.stdout.read().splitlines())
    log.append({"who": "server", "action": "start"})
    found = verify(log.path)
    assert found.torn <= 3
    assert confirmed <= found.lines - found.torn - 1 <= confirmed + 3


def test_threads_and_other_writers_do_not_break_the_chain(log):
    other = AuditLog(log.path.parent)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: (log, other)[number % 2].append({"who": "x", "action": str(number)}), range(40)))
    assert verify(log.path).lines == 40
