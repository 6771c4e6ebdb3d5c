"""JSON that every parser accepts."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from cfmri_core.evaluation.statistics import Interval
from cfmri_core.io.json_text import json_text, number, parsed_json


def test_what_json_lacks_becomes_null_or_plain():
    data = {"nan": math.nan, "array": np.array([1.0, np.inf]), "path": Path("a"), "tuple": (1, np.float32(2)), 3: True}
    assert json.loads(json_text(data)) == {"nan": None, "array": [1.0, None], "path": "a", "tuple": [1, 2], "3": True}


def test_dataclasses_become_objects():
    assert json.loads(json_text(Interval(1.0, math.nan, 2.0, 3)))["low"] is None


def test_paths_that_are_not_utf8_come_back():
    path = os.fsdecode(b"Br\xc3\xbcste-\xff")
    text = json_text({"path": Path(path)}, indent=None)
    assert text == '{"path": "Br\u00fcste-\\udcff"}'
    assert json.loads(text.encode("utf-8")) == {"path": path}


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", '{"a": -Infinity}', "", "{"])
def test_what_is_not_json_is_refused(text):
    with pytest.raises(ValueError, match=r"JSON|Expecting"):
        parsed_json(text)


def test_a_number_is_a_number():
    assert number(3) == 3.0
    assert number(-0.5) == -0.5
    for wrong in ("3", None, True, [3], float("nan"), float("inf"), -math.inf):
        with pytest.raises(ValueError, match="stands where a number"):
            number(wrong)
    with pytest.raises(ValueError, match="from 0 belongs"):
        number(-1, 0)
