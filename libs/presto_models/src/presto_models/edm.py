"""The EDM design space: preconditioning, loss weight, noise laws (Karras et al. 2022, table 1)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from presto_models.denoiser import Cond, Hidden, Tap, per_sample, prepare

SIGMA_DATA, SIGMA_MIN, SIGMA_MAX = 0.5, 0.002, 80.0  # published


def scalings(
    sigma: Float[Tensor, " b"], sigma_data: float = SIGMA_DATA, boundary: float = 0.0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """c_skip, c_out, c_in and c_noise, each of sigma's shape (Karras et al. 2022, table 1).

    At sigma = `boundary` the denoiser returns its input: 0 for diffusion models, sigma_min for
    consistency models (Song et al. 2023, appendix C).
    """
    total, above = (sigma**2 + sigma_data**2).sqrt(), sigma - boundary
    c_skip = sigma_data**2 / (above**2 + sigma_data**2)
    c_noise = sigma.clamp(min=torch.finfo(sigma.dtype).tiny).log() / 4  # finite at 0 too
    return c_skip, above * sigma_data / total, 1 / total, c_noise


def loss_weight(sigma: Float[Tensor, " b"], sigma_data: float = SIGMA_DATA) -> Float[Tensor, " b"]:
    """lambda(sigma) = (sigma^2 + sigma_data^2) / (sigma sigma_data)^2, so that the network's own
    target has unit weight at every noise level (Karras et al. 2022)."""
    return (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2


class Precondition(nn.Module):
    """Turns a raw network F(x, c_noise, cond) into a denoiser D(x, sigma, cond).

    The network sees unit-variance inputs and never hears of sigma_data. Keyword arguments
    (`tap`, `budget`) are handed on to it. The result is float32 whatever the network computes in.
    """

    def __init__(self, inner: Callable, sigma_data: float = SIGMA_DATA, boundary: float = 0.0):
        super().__init__()
        self.inner = inner
        self.sigma_data, self.boundary = sigma_data, boundary

    def scalings(self, sigma: Float[Tensor, " b"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """c_skip, c_out, c_in and what the network is told of the noise level, in float32."""
        return scalings(sigma.float(), self.sigma_data, self.boundary)

    def forward(
        self,
        x: Float[Tensor, "b c *t"],
        sigma: Float[Tensor, " b"],
        cond: Cond = None,
        *,
        sigma_to: Float[Tensor, " b"] | None = None,
        **options,
    ) -> Float[Tensor, "b c *t"] | tuple[Float[Tensor, "b c *t"], Hidden]:
        """`sigma_to`, for networks that know where a jump along a trajectory is to end, reaches
        the network as `c_noise_to`."""
        c_skip, c_out, c_in, c_noise = self.scalings(sigma)
        if sigma_to is not None:
            options["c_noise_to"] = self.scalings(sigma_to.clamp(min=SIGMA_MIN))[3]
        F_x = self.inner(per_sample(c_in, x) * x, c_noise, cond, **options)
        F_x, *hidden = F_x if isinstance(F_x, tuple) else (F_x,)
        F_x = F_x.to(torch.promote_types(x.dtype, torch.float32))
        D_x = per_sample(c_skip, x) * x + per_sample(c_out, x) * F_x
        return (D_x, *hidden) if hidden else D_x

    def features(
        self, x: Float[Tensor, "b c *t"], sigma: Float[Tensor, " b"], cond: Cond = None, *, tap: Tap
    ) -> Hidden:
        """Hidden state after block `tap` of the network; later blocks do not run."""
        _, _, c_in, c_noise = self.scalings(sigma)
        return self.inner.features(per_sample(c_in, x) * x, c_noise, cond, tap=tap)

    def prepare(self, cond: Cond) -> Cond:
        """The condition with what the network can compute of it, once for all sampler steps."""
        return prepare(self.inner, cond)


def add_noise(
    x: Float[Tensor, "b c *t"], sigma: Float[Tensor, " b"], rng: torch.Generator | None = None
) -> Float[Tensor, "b c *t"]:
    """x + sigma * eps with eps ~ N(0, 1) drawn from `rng`."""
    eps = torch.randn(x.shape, generator=rng, device=x.device, dtype=x.dtype)
    return x + per_sample(sigma, x) * eps


def karras_sigmas(
    steps: int,
    *,
    rho: float = 7.0,
    sigma_min: float = SIGMA_MIN,
    sigma_max: float = SIGMA_MAX,
) -> Float[Tensor, " steps"]:
    """`steps` noise levels from sigma_max down to sigma_min, evenly spaced in sigma^(1/rho)
    (Karras et al. 2022, eq. 5). Samplers append the final zero themselves."""
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    u = torch.linspace(0, 1, steps, dtype=torch.float64)
    return KarrasUniform(rho=rho, sigma_min=sigma_min, sigma_max=sigma_max).quantile(1 - u).float()


@runtime_checkable
class SigmaLaw(Protocol):
    """A distribution of noise levels, given by its quantile function."""

    def quantile(self, u: Tensor) -> Tensor:
        """The noise level below which a fraction u of the mass lies; u in [0, 1]."""
        ...


def sample_sigma(
    law: SigmaLaw,
    n: int,
    rng: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Float[Tensor, " n"]:
    """n independent noise levels from `law`, by inverting its distribution function."""
    u = torch.rand(n, generator=rng, device=device, dtype=torch.float32)
    return law.quantile(u.double()).float()


@dataclass(frozen=True)
class LogNormal:
    """sigma_train: ln sigma ~ N(P_mean, P_std^2), truncated (not clamped) to the given range.

    P_std = 1.0 and the range are published. P_mean = -0.4 is EDM2's; the published summary of
    Presto prints 0.4, where text extraction may have lost the minus: both are one value apart.
    """

    P_mean: float = -0.4
    P_std: float = 1.0
    sigma_min: float = SIGMA_MIN
    sigma_max: float = SIGMA_MAX

    def __post_init__(self) -> None:
        _check_range(self.sigma_min, self.sigma_max)

    def quantile(self, u: Tensor) -> Tensor:
        ends = torch.tensor([self.sigma_min, self.sigma_max], dtype=u.dtype, device=u.device)
        low, high = torch.special.ndtr((ends.log() - self.P_mean) / self.P_std)
        z = torch.special.ndtri(low + u * (high - low))
        return (self.P_mean + self.P_std * z).exp().clamp(*ends)  # rounding at u = 0 and 1 only


@dataclass(frozen=True)
class KarrasUniform:
    """sigma_inf: uniform in sigma^(1/rho), the law of the sampling grid itself.

    The name is published; the formula and rho = 7 are our defaults, not stated in the paper.
    """

    rho: float = 7.0
    sigma_min: float = SIGMA_MIN
    sigma_max: float = SIGMA_MAX

    def __post_init__(self) -> None:
        _check_range(self.sigma_min, self.sigma_max)
        if not self.rho > 0:
            raise ValueError(f"rho must be above 0, got {self.rho:g}")

    def quantile(self, u: Tensor) -> Tensor:
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        return (low + u * (high - low)) ** self.rho


@dataclass(frozen=True)
class Discrete:
    """Equal mass on a few fixed levels: what DMD2 trains its generator on."""

    sigmas: tuple[float, ...]

    def quantile(self, u: Tensor) -> Tensor:
        levels = torch.tensor(sorted(self.sigmas), dtype=u.dtype, device=u.device)
        return levels[(u * len(levels)).long().clamp(max=len(levels) - 1)]


@dataclass(frozen=True)
class Truncated:
    """Another law between its own quantiles `low` and `high`, such as DMD2's 2 % to 98 %."""

    law: SigmaLaw
    low: float = 0.02
    high: float = 0.98

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 1:
            raise ValueError(f"need 0 <= low < high <= 1, got {self.low} and {self.high}")

    def quantile(self, u: Tensor) -> Tensor:
        return self.law.quantile(self.low + u * (self.high - self.low))


@dataclass(frozen=True)
class Mixture:
    """Each of several laws with its share of the mass, for a network that must serve both.

    Its levels are drawn law by law: `quantile` stacks the laws side by side on [0, 1], so it is
    not monotone across them. Use it to draw, not to place the bins of a schedule.
    """

    laws: tuple[SigmaLaw, ...]
    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.laws) != len(self.shares) or abs(sum(self.shares) - 1) > 1e-6:
            raise ValueError(f"{len(self.laws)} laws need shares that sum to 1, got {self.shares}")
        if min(self.shares) <= 0:
            raise ValueError(f"shares must be positive, got {self.shares}")

    def quantile(self, u: Tensor) -> Tensor:
        sigma, start = torch.zeros_like(u), 0.0
        for law, share in zip(self.laws, self.shares, strict=True):
            inside = ((u - start) / share).clamp(0, 1)
            sigma = torch.where(u >= start, law.quantile(inside), sigma)
            start += share
        return sigma


def _check_range(sigma_min: float, sigma_max: float) -> None:
    if not 0 < sigma_min < sigma_max:
        raise ValueError(f"need 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}")
