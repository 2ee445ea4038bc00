"""Samplers on Gaussian data, where the exact solution is known, on a mixture of Gaussians, where
only the order is, and beside another library's."""

import math
from itertools import pairwise

import pytest
import torch

from presto_models.edm import karras_sigmas, scalings
from presto_models.guidance import guided
from presto_models.samplers import (
    SOLVERS,
    Churn,
    cfg_pp,
    dpmpp_2m,
    dpmpp_2s,
    euler,
    few_step_sigmas,
    generators,
    heun,
    multistep,
    randn,
    sample,
)

SD = 0.5  # deviation of the data, which has zero mean


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Gaussian:
    """The exact denoiser of N(0, SD^2), counting its calls."""

    calls = 0

    def __call__(self, x, sigma, cond):
        self.calls += 1
        return x * SD**2 / (SD**2 + sigma.double().view(-1, 1, 1) ** 2)


def mixture(x, sigma, cond=None):
    """The exact denoiser of three Gaussians, which bends the flow as data do."""
    means, sds, shares = torch.tensor(
        [[-1.0, 0.2, 0.9], [0.2, 0.1, 0.3], [0.3, 0.3, 0.4]], dtype=torch.float64
    )
    variance = sds**2 + sigma.double().view(-1, 1, 1, 1) ** 2
    away = x[..., None] - means
    share = (shares.log() - variance.log() / 2 - away**2 / (2 * variance)).softmax(-1)
    return (share * (means + sds**2 / variance * away)).sum(-1)


def flow_map(x, sigma, cond):
    """The perfect few-step generator of N(0, SD^2): the end of the probability flow through x."""
    return x * SD / (SD**2 + sigma.double().view(-1, 1, 1) ** 2).sqrt()


def error_at_sigma_min(sampler, steps: int) -> float:
    """Relative error of the (linear) flow before its last step, which alone goes on to zero."""
    sigmas = karras_sigmas(steps)
    *_, before_last, _ = sampler(Gaussian(), torch.ones(1, 1, 1, dtype=torch.float64), sigmas)
    top, bottom = sigmas[0].item(), sigmas[-1].item()
    exact = top * math.sqrt((SD**2 + bottom**2) / (SD**2 + top**2))
    return abs(before_last.x.item() / exact - 1)


@pytest.mark.parametrize(
    ("sampler", "order"), [(euler, 1), (heun, 2), (dpmpp_2m, 2), (dpmpp_2s, 2)]
)
def test_convergence_order_on_gaussian_data(sampler, order):
    errors = [error_at_sigma_min(sampler, steps) for steps in (64, 128, 256)]
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.1)


@pytest.fixture(scope="module")
def before_last():
    """The state of the mixture's flow at sigma_min, from 41 places, after so many steps."""
    noise = torch.linspace(-2, 2, 41, dtype=torch.float64).view(1, 1, -1)

    def state(sampler, steps: int):
        *_, step, _ = sampler(mixture, noise, karras_sigmas(steps))
        return step.x

    state.exact = state(heun, 2048)
    return state


@pytest.mark.parametrize(
    ("sampler", "order"), [(euler, 1), (heun, 2), (dpmpp_2m, 2), (dpmpp_2s, 2)]
)
def test_convergence_order_on_a_mixture(sampler, order, before_last):
    errors = [(before_last(sampler, n) - before_last.exact).norm().item() for n in (64, 128, 256)]
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize(
    ("sampler", "tolerance"),
    [(euler, 0.08), (heun, 0.01), (dpmpp_2m, 0.012), (dpmpp_2s, 0.01)],
)
def test_forty_steps_reach_the_standard_deviation_of_the_data(sampler, tolerance):
    noise = torch.randn(4, 2, 5000, dtype=torch.float64, generator=rng())
    x = sample(sampler(Gaussian(), noise, karras_sigmas(40)))
    assert (x.std() / noise.std()).item() == pytest.approx(SD, rel=tolerance)


@pytest.mark.parametrize(
    ("sampler", "calls"), [(euler, 10), (heun, 19), (dpmpp_2m, 10), (dpmpp_2s, 19)]
)
def test_number_of_network_calls(sampler, calls):
    D = Gaussian()
    steps = list(sampler(D, torch.ones(1, 1, 1), karras_sigmas(10)))
    assert D.calls == calls
    assert [step.index for step in steps] == list(range(10))
    torch.testing.assert_close(torch.tensor([step.sigma for step in steps]), karras_sigmas(10))


@pytest.mark.parametrize("sampler", SOLVERS.values(), ids=SOLVERS)
def test_a_single_step_is_the_denoised_noise(sampler):
    noise = torch.randn(2, 3, 4, generator=rng())
    expected = Gaussian()(noise * 80, torch.full((2,), 80.0), None)
    torch.testing.assert_close(sample(sampler(Gaussian(), noise, karras_sigmas(1))), expected)


@pytest.mark.parametrize("sampler", SOLVERS.values(), ids=SOLVERS)
def test_constant_denoisers_are_fixed_points(sampler):
    target = torch.randn(2, 3, 4, generator=rng())
    x = sample(sampler(lambda x, sigma, cond: target, torch.ones(2, 3, 4), karras_sigmas(7)))
    torch.testing.assert_close(x, target)


@pytest.fixture(scope="module")
def diffusers():
    return pytest.importorskip("diffusers")


class TestDiffusers:
    """Each solver against an implementation that shares no code with it, on its own levels."""

    noise = torch.randn(2, 3, 40, dtype=torch.float64, generator=rng())

    def same(self, x, sampler, sigmas):
        torch.testing.assert_close(
            x, sample(sampler(mixture, self.noise, sigmas)), rtol=0, atol=1e-5
        )

    @pytest.mark.parametrize("steps", [6, 20])
    @pytest.mark.parametrize(
        ("name", "sampler"),
        [("EDMEulerScheduler", euler), ("EDMDPMSolverMultistepScheduler", dpmpp_2m)],
    )
    def test_edm_schedulers(self, diffusers, name, sampler, steps):
        scheduler = getattr(diffusers, name)()
        scheduler.set_timesteps(steps)
        sigmas = scheduler.sigmas[:-1]
        torch.testing.assert_close(sigmas, karras_sigmas(steps))
        x = self.noise * sigmas[0]
        for t, sigma in zip(scheduler.timesteps, sigmas, strict=True):
            scheduler.scale_model_input(x, t)
            c_skip, c_out, *_ = scalings(sigma[None])
            F_x = (mixture(x, sigma[None]) - c_skip * x) / c_out
            x = scheduler.step(F_x, t, x).prev_sample
        self.same(x, sampler, sigmas)

    @pytest.mark.parametrize("steps", [6, 20])
    def test_heun(self, diffusers, steps):
        scheduler = diffusers.HeunDiscreteScheduler(
            use_karras_sigmas=True, prediction_type="sample"
        )
        scheduler.set_timesteps(steps)
        sigmas = scheduler.sigmas  # every level but the first and the last two occurs twice
        x = self.noise * sigmas[0]
        for t, sigma in zip(scheduler.timesteps, sigmas[:-1], strict=True):
            x = scheduler.step(mixture(x, sigma[None]), t, x).prev_sample
        self.same(x, heun, torch.cat([sigmas[:1], sigmas[1:-1:2]]))

    @pytest.mark.parametrize("steps", [6, 20])
    def test_singlestep_whose_middle_lies_on_its_geometric_grid(self, diffusers, steps):
        scheduler = diffusers.DPMSolverSinglestepScheduler(
            use_exponential_sigmas=True, prediction_type="sample", lower_order_final=True
        )
        scheduler.set_timesteps(2 * steps - 1)
        sigmas = scheduler.sigmas[:-1]
        scale = (1 + sigmas**2).sqrt()  # its state is variance preserving
        x = self.noise * sigmas[0] / scale[0]
        for t, sigma, above in zip(scheduler.timesteps, sigmas, scale, strict=True):
            x = scheduler.step(mixture(x * above, sigma[None]), t, x).prev_sample
        self.same(x, dpmpp_2s, sigmas[::2])


@pytest.mark.parametrize("levels", [[1.0, 0.0], [1.0, 1.0], [0.1, 1.0], [1.0, float("nan")]])
@pytest.mark.parametrize("name", SOLVERS)
def test_levels_descend_to_one_above_zero(name, levels):
    with pytest.raises(ValueError, match="sigmas must descend to a last one above 0"):
        next(SOLVERS[name](mixture, torch.zeros(1, 1, 4), torch.tensor(levels)))


def test_no_churn_is_heun_exactly_and_draws_nothing():
    noise, source = torch.randn(2, 3, 4, generator=rng()), rng(1)
    before = source.get_state()
    plain = sample(heun(mixture, noise, karras_sigmas(8)))
    outside = Churn(S_churn=5.0, S_min=100.0)
    for churn in (Churn(), Churn(S_noise=2.0), outside):
        assert torch.equal(
            plain, sample(heun(mixture, noise, karras_sigmas(8), churn=churn, rng=source))
        )
    assert torch.equal(source.get_state(), before)


def test_churn_keeps_the_deviation_of_gaussian_data_and_forgets_the_start():
    noise = torch.randn(4, 2, 5000, dtype=torch.float64, generator=rng())
    options = {"churn": Churn(S_churn=20.0), "rng": rng(1)}
    x = sample(heun(Gaussian(), noise, karras_sigmas(200), **options))
    assert x.std().item() == pytest.approx(SD, rel=0.01)
    cosine = (x * noise).mean() / (x.std() * noise.std())
    assert cosine.item() < 0.2  # without churn it is 1


def test_a_churned_step_rises_by_the_published_amount():
    """Algorithm 2 by hand, for a step between two levels and S_churn / N below its bound."""
    noise, sigmas = torch.ones(1, 1, 1, dtype=torch.float64), torch.tensor([2.0, 0.5])
    first = next(heun(Gaussian(), noise, sigmas, churn=Churn(0.5, S_noise=1.5), rng=rng(3)))
    level, shrink = 2 * 1.25, lambda x, sigma: x * SD**2 / (SD**2 + sigma**2)
    x = 2 + 1.5 * math.sqrt(level**2 - 4) * torch.randn(1, generator=rng(3)).item()
    slope = (x - shrink(x, level)) / level
    ahead = x + (0.5 - level) * slope
    slope = (slope + (ahead - shrink(ahead, 0.5)) / 0.5) / 2
    assert first.x.item() == pytest.approx(x + (0.5 - level) * slope, rel=1e-6)


def test_churn_needs_a_source_of_noise_and_a_sensible_range():
    with pytest.raises(ValueError, match="S_churn = 3 draws noise: give heun its rng"):
        next(heun(Gaussian(), torch.ones(1, 1, 1), karras_sigmas(2), churn=Churn(3.0)))
    with pytest.raises(ValueError, match="0 <= S_min <= S_max"):
        Churn(S_min=2.0, S_max=1.0)


@pytest.mark.parametrize("rho", [7.0, 1000.0])
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_multistep_with_the_flow_map_has_its_closed_form_variance(steps, rho):
    """v <- (v + sigma^2 - sigma_min^2) SD^2 / (SD^2 + sigma^2); from v = SD^2 it barely moves."""
    sigmas = few_step_sigmas(steps, rho=rho)
    noise = torch.randn(8, 4, 10_000, dtype=torch.float64, generator=rng(1))
    x = sample(multistep(flow_map, noise, sigmas, rng=rng(2)))
    variance, floor = 0.002**2, 0.002**2
    for sigma in sigmas.tolist():
        variance = (variance + sigma**2 - floor) * SD**2 / (SD**2 + sigma**2)
    assert x.var().item() == pytest.approx(variance, rel=0.015)
    assert variance == pytest.approx(SD**2, rel=1e-4)


def test_multistep_adds_exactly_the_generators_noise():
    sigmas, noise = few_step_sigmas(3), torch.randn(2, 3, 4, generator=rng(1))
    *renoised, last = multistep(flow_map, noise, sigmas, rng=rng(2))
    source = rng(2)
    for step, after in zip(renoised, sigmas[1:].tolist(), strict=True):
        fresh = (step.x - step.denoised) / math.sqrt(after**2 - 0.002**2)
        expected = torch.randn(2, 3, 4, generator=source).double()
        torch.testing.assert_close(fresh, expected, rtol=0, atol=1e-5)
    assert torch.equal(last.x, last.denoised)  # the last step adds none


def test_multistep_of_one_step_calls_the_generator_once_on_pure_noise():
    noise, source = torch.randn(2, 3, 4, generator=rng(1)), rng(2)
    before = source.get_state()
    x = sample(multistep(flow_map, noise, few_step_sigmas(1), rng=source))
    assert torch.equal(x, flow_map(80 * noise, torch.full((2,), 80.0), None))
    assert torch.equal(source.get_state(), before)  # and draws nothing


def test_multistep_adds_no_noise_at_or_below_sigma_min():
    first = next(multistep(flow_map, torch.ones(1, 1, 1), torch.tensor([80.0, 0.001]), rng=rng()))
    assert torch.equal(first.x, first.denoised)


def shift(cond):
    return cond - 1


@pytest.mark.parametrize("guide", ["none", "cfg", "cfg++"])
@pytest.mark.parametrize("name", [*SOLVERS, "churned", "multistep"])
def test_a_clip_does_not_depend_on_its_batch(name, guide):
    """Bit for bit, where the denoiser itself works sample by sample."""

    def D(x, sigma, cond):
        return mixture(x, sigma) + 0.01 * cond.view(-1, 1, 1)

    D = {"none": D, "cfg": guided(D, 3.0, shift), "cfg++": cfg_pp(D, 0.8, shift)}[guide]
    if name == "multistep" and guide == "cfg++":
        pytest.skip("CFG++ is for solvers")

    def clips(seeds):
        sources, cond = generators(seeds, len(seeds)), torch.tensor([float(s) for s in seeds])
        noise = randn((len(seeds), 2, 6), sources)
        if name == "multistep":
            return sample(multistep(D, noise, few_step_sigmas(4), cond, rng=sources))
        if name == "churned":
            churn = {"churn": Churn(10.0), "rng": sources}
            return sample(heun(D, noise, karras_sigmas(6), cond, **churn))
        return sample(SOLVERS[name](D, noise, karras_sigmas(6), cond))

    batch = clips([5, 6, 7])
    assert torch.equal(batch, torch.cat([clips([seed]) for seed in (5, 6, 7)]))
    assert not torch.equal(batch[0], batch[1])


def test_seeds_count_on_from_one_and_generators_are_taken_as_they_are():
    source = rng(9)
    assert [one.initial_seed() for one in generators(3, 2)] == [3, 4]
    assert [one.initial_seed() for one in generators([8, source], 2)] == [8, 9]
    assert generators(source, 1)[0] is source
    with pytest.raises(ValueError, match="3 samples need as many seeds or generators, got 2"):
        generators([1, 2], 3)


def test_generators_and_samples_must_be_as_many():
    with pytest.raises(ValueError, match="3 samples need as many generators, got 2"):
        randn((3, 2, 6), [rng(), rng()])


def test_few_step_levels_are_the_published_ones():
    torch.testing.assert_close(
        few_step_sigmas(4), torch.tensor([80, 17.5, 2.5, 0.17]), rtol=0.03, atol=0
    )
