import pytest
import torch

from cfmri_core.errors import RequestError
from cfmri_core.models.device import resolved_device


def test_auto_is_what_is_there():
    assert resolved_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    assert resolved_device("cpu") == "cpu"


@pytest.mark.parametrize("name", ["", "gpu", "cuda:x", "cuda:99"])
def test_what_is_not_there_is_refused_by_name(name):
    with pytest.raises(RequestError, match=f"'{name}'"):
        resolved_device(name)
