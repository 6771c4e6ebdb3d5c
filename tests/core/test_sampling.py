"""Samplers against cases with a known answer: Gaussian data, whose noise predictor is exact."""

import math
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch

from cfmri_core.diffusion.sampling import (
    add_noise,
    edit_friendly,
    independent_noise,
    paper_edit,
    pin,
    posterior_step,
    shared_noise,
    step,
)
from cfmri_core.diffusion.schedule import cosine_alpha_bar, index_grid
from cfmri_core.errors import Cancelled, RequestError

ALPHA_BAR = cosine_alpha_bar()


def gaussian_eps(spread):
    """Exact noise predictor of data N(0, spread^2)."""

    def eps(x, i, condition):
        level = float(ALPHA_BAR[i])
        return math.sqrt(1 - level) * x / (level * spread**2 + 1 - level)

    return eps


def sampled(spread, noise, steps, eta=0.0, fresh=lambda index: None):
    """Denoise noise step by step with the exact predictor."""
    x, eps = noise, gaussian_eps(spread)
    for j, i in reversed(list(pairwise(index_grid(1000, steps)))):
        x = step(x, eps(x, i, None), i, j, ALPHA_BAR, eta, fresh(j) if j > 0 else None)
    return x


def any_eps(x, i, condition):
    """A predictor that is not linear and depends on all its arguments."""
    return torch.tanh(x * (1 + 1e-3 * i) + condition.sum(dim=1)[:, None, None, None])


def slices(batch=3, rows=16, cols=12, dtype=torch.float64):
    return torch.randn(batch, 1, rows, cols, generator=torch.Generator().manual_seed(0), dtype=dtype)


@pytest.mark.parametrize(("steps", "spread"), [(4, 0.160), (10, 0.237), (20, 0.267), (50, 0.286), (1000, 0.299)])
def test_deterministic_sampling_approaches_the_data_spread_from_below(steps, spread):
    noise = torch.randn(1, 1, 300, 300, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    sample = sampled(0.3, noise, steps)
    assert float(sample.std()) == pytest.approx(spread, abs=1.5e-3)


@pytest.mark.parametrize(("steps", "spread"), [(50, 0.272), (1000, 0.299)])
def test_ancestral_sampling_leaves_no_noise_behind(steps, spread):
    """MONAI's DDPM gives a spread of .89 here at 50 steps."""
    noise = torch.randn(1, 1, 150, 150, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    sample = sampled(0.3, noise, steps, eta=1.0, fresh=shared_noise(0, 150, 150))
    assert float(sample.std()) == pytest.approx(spread, abs=0.004)


@pytest.mark.parametrize(("i", "j", "eta"), [(1000, 950, 0.0), (1000, 950, 1.0), (500, 499, 1.0), (45, 0, 1.0)])
def test_step_agrees_with_its_textbook_form(i, j, eta):
    x, eps, noise = slices(), slices().flip(0), slices().flip(2)
    a = ALPHA_BAR.double()
    variance = eta**2 * (1 - a[j]) / (1 - a[i]) * (1 - a[i] / a[j])
    x0 = (x - (1 - a[i]).sqrt() * eps) / a[i].sqrt()
    expected = a[j].sqrt() * x0 + (1 - a[j] - variance).sqrt() * eps + variance.sqrt() * noise
    assert torch.allclose(step(x, eps, i, j, ALPHA_BAR, eta, noise), expected, rtol=1e-9, atol=1e-9)


def test_step_to_index_zero_has_no_noise():
    x, eps = slices(), slices().flip(0)
    assert torch.equal(step(x, eps, 50, 0, ALPHA_BAR, 1.0, slices().flip(2)), step(x, eps, 50, 0, ALPHA_BAR))


@pytest.mark.parametrize("i", [2, 50, 1000])
def test_posterior_is_the_ancestral_step(i):
    x, x0, noise = slices(), slices().flip(0), slices().flip(2)
    eps = (x - math.sqrt(float(ALPHA_BAR[i])) * x0) / math.sqrt(1 - float(ALPHA_BAR[i]))
    expected = step(x, eps, i, i - 1, ALPHA_BAR, 1.0, noise)
    assert torch.allclose(posterior_step(x, x0, i, ALPHA_BAR, noise), expected, atol=1e-6)


def test_added_noise_has_the_right_share():
    x0, noise = slices(), slices().flip(0)
    assert torch.equal(add_noise(x0, noise, 0, ALPHA_BAR), x0)
    assert torch.allclose(add_noise(x0, noise, 1000, ALPHA_BAR), noise, atol=1e-3)


class TestNoise:
    def test_shared_noise_depends_on_seed_and_index_only(self):
        first, again = shared_noise(5, 8, 9), shared_noise(5, 8, 9)
        assert first(7).shape == (1, 1, 8, 9)
        assert torch.equal(first(7), again(7))
        assert not torch.equal(first(7), first(8))
        assert not torch.equal(first(7), shared_noise(6, 8, 9)(7))

    def test_independent_noise_does_not_depend_on_batching(self):
        whole = independent_noise(5, range(4), 8, 9)(7)
        parts = [independent_noise(5, numbers, 8, 9)(7) for numbers in ([0, 1], [2, 3])]
        assert whole.shape == (4, 1, 8, 9)
        assert torch.equal(whole, torch.cat(parts))
        assert not torch.equal(whole[0], whole[1])

    def test_noise_is_standard_normal(self):
        drawn = shared_noise(0, 300, 300)(1)
        assert float(drawn.mean()) == pytest.approx(0, abs=0.01)
        assert float(drawn.std()) == pytest.approx(1, abs=0.01)


class TestEditFriendly:
    grid = index_grid(900, 20)
    noise = staticmethod(shared_noise(0, 16, 12))
    source, target = torch.tensor([[0.3, 0.0]]), torch.tensor([[-0.5, 0.2]])

    def edit(self, x0, source, target, **options):
        options = {"noise": self.noise, **options}
        return edit_friendly(any_eps, x0, source, target, ALPHA_BAR, self.grid, **options)

    @pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_null_edit_is_exact(self, guidance_scale, dtype):
        x0 = slices(dtype=dtype)
        assert torch.equal(self.edit(x0, self.source, self.source, guidance_scale=guidance_scale), x0)

    @pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
    def test_agrees_with_the_published_form(self, guidance_scale):
        """Latents and residuals kept explicitly, as in the paper, double precision."""
        x0 = slices()
        noised = {k: add_noise(x0, self.noise(k).double(), k, ALPHA_BAR) for k in self.grid}
        source, target = (c.double().expand(len(x0), -1) for c in (self.source, self.target))
        y = noised[self.grid[-1]]
        for j, i in zip(self.grid[-2::-1], self.grid[:0:-1], strict=True):
            base = any_eps(y, i, source)
            eps = base + guidance_scale * (any_eps(y, i, target) - base)
            residual = noised[j] - step(noised[i], any_eps(noised[i], i, source), i, j, ALPHA_BAR, 1.0)
            y = step(y, eps, i, j, ALPHA_BAR, 1.0) + residual
        edited = self.edit(x0, self.source, self.target, guidance_scale=guidance_scale)
        assert torch.allclose(edited, y, atol=1e-6 * float(y.abs().max()))
        assert float((edited - x0).abs().max()) > 0.1

    def test_slices_do_not_depend_on_their_neighbours(self):
        x0 = slices()
        alone = self.edit(x0[1:2], self.source, self.target)
        assert torch.allclose(self.edit(x0, self.source, self.target)[1:2], alone, atol=1e-12)

    def test_conditions_may_differ_per_slice(self):
        x0 = slices(batch=2)
        sources, targets = torch.cat([self.source, self.target]), torch.cat([self.target, self.target])
        edited = self.edit(x0, sources, targets)
        assert torch.allclose(edited[:1], self.edit(x0[:1], self.source, self.target), atol=1e-12)
        assert torch.equal(edited[1], x0[1])

    @pytest.mark.parametrize(("guidance_scale", "per_step"), [(1.0, 2), (3.0, 3)])
    def test_evaluations_and_progress(self, guidance_scale, per_step):
        evaluated, reported = [], []

        def counting(x, i, condition):
            evaluated.append(len(x))
            assert len(condition) == len(x)
            return any_eps(x, i, condition)

        edit_friendly(
            counting, slices(batch=2), self.source, self.target, ALPHA_BAR, self.grid, noise=self.noise,
            guidance_scale=guidance_scale, callback=lambda *progress: reported.append(progress),
        )  # fmt: skip
        assert evaluated == [2 * per_step] * 20
        assert reported == [(done, 20) for done in range(1, 21)]

    def test_callback_cancels(self):
        def cancel(done, total):
            raise Cancelled("stop")

        with pytest.raises(Cancelled):
            self.edit(slices(), self.source, self.target, callback=cancel)

    @pytest.mark.parametrize("grid", [[], [0], [0, 5, 5], [9, 0]])
    def test_grid_that_does_not_rise_is_refused(self, grid):
        with pytest.raises(RequestError, match="increasing"):
            edit_friendly(any_eps, slices(), self.source, self.target, ALPHA_BAR, grid, noise=self.noise)


class TestPaperEdit:
    noise = staticmethod(independent_noise(0, range(3), 16, 12))
    target = torch.tensor([[0.4, -0.1]])

    def test_agrees_with_the_published_loop(self):
        """The loop of the paper's code, by network timestep; its schedule has alphas[t] = alpha_bar[t + 1]."""
        alphas = ALPHA_BAR[1:].double()
        x0, start, w = slices(), 50, 3.0
        x = alphas[start].sqrt() * x0 + (1 - alphas[start]).sqrt() * self.noise(start + 1)
        for t in range(start - 1, -1, -1):
            unconditional = any_eps(x, t + 1, torch.zeros(3, 2))
            eps = unconditional + w * (any_eps(x, t + 1, self.target.double().expand(3, -1)) - unconditional)
            estimate = (x - (1 - alphas[t]).sqrt() * eps) / alphas[t].sqrt()
            low, high = (estimate.flatten(1).quantile(q, dim=1)[:, None, None, None] for q in (0.10, 0.99))
            estimate = (estimate - low) / (high - low)
            before = alphas[t - 1] if t > 0 else torch.ones(())
            beta = 1 - alphas[t] / before
            x = (
                before.sqrt() * beta / (1 - alphas[t]) * estimate
                + (alphas[t] / before).sqrt() * (1 - before) / (1 - alphas[t]) * x
            )
            if t > 0:
                x = x + (beta * (1 - before) / (1 - alphas[t])).sqrt() * self.noise(t)
        assert torch.allclose(paper_edit(any_eps, x0, self.target, ALPHA_BAR, noise=self.noise), x, atol=1e-6)

    def test_hundred_evaluations_per_slice_at_its_defaults(self):
        evaluated, reported = [], []

        def counting(x, i, condition):
            evaluated.append((i, len(x)))
            return torch.zeros_like(x)

        paper_edit(
            counting, slices(), self.target, ALPHA_BAR, noise=self.noise,
            callback=lambda *progress: reported.append(progress),
        )  # fmt: skip
        assert evaluated == [(i, 6) for i in range(50, 0, -1)]
        assert reported[-1] == (50, 50)

    def test_result_is_pinned(self):
        edited = paper_edit(any_eps, slices(), self.target, ALPHA_BAR, noise=self.noise, pin_values=(-1.0, 1.0))
        for one in edited:
            found = one.flatten().quantile(torch.tensor([0.10, 0.99], dtype=one.dtype))
            assert torch.allclose(found, torch.tensor([-1.0, 1.0], dtype=one.dtype), atol=1e-4)

    @pytest.mark.parametrize("start", [0, 1000, -1])
    def test_start_out_of_range_is_refused(self, start):
        with pytest.raises(RequestError, match="Give 1 to 999 steps"):
            paper_edit(any_eps, slices(), self.target, ALPHA_BAR, noise=self.noise, start=start)


def test_pinning_a_constant_slice_stays_finite():
    assert torch.isfinite(pin(torch.ones(2, 1, 4, 4), (0.1, 0.99), (0.0, 1.0))).all()


@dataclass(frozen=True)
class Fields:
    """Images ``.5 + sum_k m_k(c) a_k`` of independent Gaussian fields; the scanner c sets the amplitudes.

    The predictor is exact in Fourier space, and the truth of an edit is known: the same fields with
    the other scanner's amplitudes. Its only error is that of the sampler.
    """

    size: int = 64
    batch: int = 6
    amplitudes = ((0.25, 0.12, 0.03), (0.10, 0.22, 0.03))
    noise_spread = 0.02

    def spectra(self):
        rows = torch.fft.fftfreq(self.size, dtype=torch.float64)
        frequency = (rows[:, None] ** 2 + rows[None] ** 2).sqrt()
        bands = [1 / (1 + (frequency / cutoff) ** power) for cutoff, power in ((0.02, 4), (0.05, 4), (0.15, 6))]
        for band in bands:
            band[0, 0] = 0
        return [band / band.mean() for band in bands]

    def draw(self):
        """Source images, true target images, and the field of the fine detail."""
        generator = torch.Generator().manual_seed(3)
        shape = (self.batch, 1, self.size, self.size)
        white = [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(4)]
        fields = [
            torch.fft.ifft2(torch.fft.fft2(w) * s.sqrt()).real for w, s in zip(white, self.spectra(), strict=False)
        ]
        source, target = (
            0.5 + sum(m * field for m, field in zip(amplitudes, fields, strict=True)) for amplitudes in self.amplitudes
        )
        return source + self.noise_spread * white[3], target, fields[2]

    def eps(self, x, i, condition):
        """Exact predictor; condition 0 is unconditional, 1 and 2 are the scanners."""
        level = float(ALPHA_BAR[i])
        spectra = self.spectra()
        powers = [
            sum(m**2 * s for m, s in zip(ms, spectra, strict=True)) + self.noise_spread**2 for ms in self.amplitudes
        ]
        table = torch.stack([(powers[0] + powers[1]) / 2, *powers])[condition[:, 0].long()][:, None]
        centred = torch.fft.fft2(x - math.sqrt(level) * 0.5)
        return torch.fft.ifft2(math.sqrt(1 - level) / (level * table + 1 - level) * centred).real


SOURCE, TARGET = torch.tensor([[1.0]]), torch.tensor([[2.0]])


def psnr(image, truth):
    return -10 * math.log10(float(((image - truth) ** 2).mean()))


def coarse_spread(images):
    """Standard deviation below the cut-off of the coarse field."""
    rows = torch.fft.fftfreq(images.shape[-1], dtype=torch.float64)
    coarse = (rows[:, None] ** 2 + rows[None] ** 2).sqrt() < 0.025
    return float(torch.fft.ifft2(torch.fft.fft2(images - images.mean()) * coarse).real.std())


def correlation(image, field):
    return float(torch.corrcoef(torch.stack([image.flatten(), field.flatten()]))[0, 1])


@pytest.fixture(scope="module")
def edited():
    fields = Fields()
    source, truth, fine = fields.draw()
    inversion = edit_friendly(
        fields.eps, source, SOURCE, TARGET, ALPHA_BAR, index_grid(1000, 40), noise=shared_noise(0, 64, 64)
    )
    paper = paper_edit(
        fields.eps, source, TARGET, ALPHA_BAR, noise=independent_noise(0, range(6), 64, 64),
        pin_values=tuple(float(source.quantile(q)) for q in (0.10, 0.99)),
    )  # fmt: skip
    return {"fields": fields, "source": source, "truth": truth, "fine": fine,
            "inversion": inversion, "paper": paper}  # fmt: skip


class TestOnExactScore:
    def test_inversion_gets_nearer_to_the_truth_and_the_papers_loop_does_not(self, edited):
        unedited = psnr(edited["source"], edited["truth"])
        assert psnr(edited["inversion"], edited["truth"]) > unedited + 1
        assert psnr(edited["paper"], edited["truth"]) < unedited + 1

    def test_inversion_moves_the_coarse_contrast_and_the_papers_loop_does_not(self, edited):
        found = {name: coarse_spread(edited[name]) for name in ("source", "truth", "inversion", "paper")}
        assert found["source"] > 1.5 * found["truth"]
        assert found["inversion"] == pytest.approx(found["truth"], rel=0.15)
        assert found["paper"] > 1.5 * found["truth"]

    def test_inversion_keeps_fine_detail_and_the_papers_loop_loses_it(self, edited):
        found = {name: correlation(edited[name], edited["fine"]) for name in ("source", "inversion", "paper")}
        assert found["inversion"] > 0.95 * found["source"]
        assert found["paper"] < 0.9 * found["source"]

    def test_there_and_back_again(self, edited):
        """Composition: editing to the target and back returns nearly the source."""
        eps, source, grid = edited["fields"].eps, edited["source"], index_grid(600, 20)
        first, second = shared_noise(0, 64, 64), shared_noise(1, 64, 64)
        there = edit_friendly(eps, source, SOURCE, TARGET, ALPHA_BAR, grid, noise=first)
        with_same_noise = edit_friendly(eps, there, TARGET, SOURCE, ALPHA_BAR, grid, noise=first)
        with_other_noise = edit_friendly(eps, there, TARGET, SOURCE, ALPHA_BAR, grid, noise=second)
        assert psnr(there, source) < 35
        assert psnr(with_other_noise, source) > 36
        assert psnr(with_same_noise, source) > psnr(with_other_noise, source) + 5
