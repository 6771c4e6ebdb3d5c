import pytest
import torch

from cfmri_core.errors import ModelOutputError, ResourceError
from cfmri_core.models.batches import BATCH, in_batches, is_out_of_memory


def memory_for(most, error=None):
    """Return a pass that doubles the slices it is shown, and a list of the batches it was asked for."""
    asked = []

    def run(batch):
        size = batch.rows.stop - batch.rows.start
        asked.append((batch.rows.start, size, batch.number, batch.count))
        if size > most:
            raise error or torch.OutOfMemoryError("CUDA out of memory.")
        return 2 * SLICES[batch.rows]

    return run, asked


SLICES = torch.arange(20.0).reshape(20, 1, 1, 1).expand(20, 1, 8, 6)


def test_slices_go_in_batches_of_a_fixed_size():
    run, asked = memory_for(100)
    assert torch.equal(torch.cat(in_batches(run, SLICES)), 2 * SLICES)
    assert asked == [(0, BATCH, 0, 2), (BATCH, 4, 1, 2)]


def test_batches_are_halved_until_they_fit_and_stay_small():
    run, asked = memory_for(5)
    assert torch.equal(torch.cat(in_batches(run, SLICES)), 2 * SLICES)
    assert asked[:4] == [(0, 16, 0, 2), (0, 8, 0, 3), (0, 4, 0, 5), (4, 4, 1, 5)]


def test_few_slices_are_halved_from_their_number():
    run, asked = memory_for(1)
    in_batches(run, SLICES[:3])
    assert [size for _, size, *_ in asked] == [3, 1, 1, 1]


@pytest.mark.parametrize(("most", "batch", "halvings"), [(BATCH, 1, 4), (64, 4, 4), (1, 1, 0)])
def test_what_never_fits_is_told_with_its_size(most, batch, halvings):
    run, asked = memory_for(0)
    slices = SLICES.repeat(4, 1, 1, 1)
    with pytest.raises(ResourceError, match=f"{batch} of 80 slices of 8 x 6 pixels at once, after {halvings} halvings"):
        in_batches(run, slices, most)
    assert len(asked) == halvings + 1


def test_other_errors_are_not_touched():
    for error in (ValueError("no"), RuntimeError("shapes do not fit"), ModelOutputError("NaN")):
        run, asked = memory_for(5, error)
        with pytest.raises(type(error)):
            in_batches(run, SLICES)
        assert len(asked) == 1


def test_the_memory_of_a_failed_pass_is_free_before_the_next():
    class Tensors:
        alive = 0

        def __init__(self):
            type(self).alive += 1

        def __del__(self):
            type(self).alive -= 1

    def run(batch):
        assert Tensors.alive == 0
        tensors = Tensors()
        if batch.rows.stop - batch.rows.start > 4:
            raise MemoryError
        del tensors
        return batch.number

    assert in_batches(run, SLICES) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"), True),
        (MemoryError(), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error, expected):
    assert is_out_of_memory(error) is expected


def test_a_real_allocation_that_fails_counts():
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**60)
    assert is_out_of_memory(raised.value)
