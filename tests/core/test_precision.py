import torch

from cfmri_core.models import precision

CPU = torch.device("cpu")


def test_bfloat16_is_used_where_it_is_fast(monkeypatch):
    monkeypatch.setattr(precision, "has_fast_bfloat16", lambda device: True)
    with precision.autocast(CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


def test_float32_is_used_elsewhere(monkeypatch):
    monkeypatch.setattr(precision, "has_fast_bfloat16", lambda device: False)
    with precision.autocast(CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_processor_without_the_instructions_counts_as_slow(monkeypatch):
    for probe in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, probe, lambda: False, raising=False)
    assert not precision.has_fast_bfloat16(CPU)


def test_unknown_kind_of_device_counts_as_slow():
    assert not precision.has_fast_bfloat16(torch.device("meta"))
