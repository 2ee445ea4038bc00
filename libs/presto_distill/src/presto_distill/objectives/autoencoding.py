"""Codec training, by our own recipe: log magnitudes through a small variational bottleneck; and of
the decoder alone, with or without a critic of spectrograms."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from presto_distill.objective import Batch, Losses, Turn
from presto_distill.spectrogram_critic import (
    SpectrogramCritic,
    Verdict,
    critic_loss,
    generator_losses,
)
from presto_models.autoencoder import Autoencoder, band_centres, erb


@dataclass(frozen=True)
class AutoencodingConfig:
    """Weights of the three terms, and the resolutions at which loudness over mel is compared."""

    spectrum: float = 1.0
    mel: float = 1.0
    kl: float = 2e-2  # per latent value, in nats
    mel_bands: tuple[int, ...] = (20, 40, 80, 160)


class Autoencoding:
    """Trains an autoencoder on |log X - log Y| in narrow bands and in mel bands, plus a small KL.

    `batch.x` is audio [b, s], or log magnitudes [b, n, bands] made beforehand by `log_bands`.
    """

    def __init__(self, autoencoder: Autoencoder, cfg: AutoencodingConfig = AutoencodingConfig()):
        self.autoencoder, self.cfg = autoencoder, cfg
        self.players = {"autoencoder": autoencoder}
        self.turns = [Turn("autoencoder", self.loss)]
        self.weight = band_weights(autoencoder)
        top = autoencoder.sample_rate / 2
        bins = autoencoder.to_bins.cpu()
        self.mels = [bins @ mel_bank(n, bins.shape[1], top) for n in cfg.mel_bands]

    def loss(self, batch: Batch, rng: torch.Generator) -> Losses:
        x, mean, scale = self.encoded(batch)
        mean, scale = mean.float(), scale.float()
        kl = 0.5 * (mean.square() + scale.square() - 1) - scale.log()
        return self.distances(x, self.decoded(mean, scale, rng)) | {"kl": self.cfg.kl * kl.mean()}

    def encoded(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """The batch's log magnitudes, and mean and deviation of their latents."""
        codec = self.autoencoder
        x = codec.log_bands(batch.x) if batch.x.ndim == 2 else batch.x
        x = x.clamp_min(codec.floor)
        return x, *codec.encode_bands(x)

    def decoded(self, mean: Tensor, scale: Tensor, rng: torch.Generator) -> Tensor:
        """Log magnitudes of a draw from such latents."""
        noise = torch.randn(mean.shape, generator=rng, device=rng.device).to(mean)
        return self.autoencoder.decode_bands(mean + scale * noise).float()

    def distances(self, x: Tensor, y: Tensor) -> Losses:
        """Of decoded log magnitudes y from those that should be, x."""
        cfg = self.cfg
        return {
            "spectrum": cfg.spectrum * ((x - y).abs() * self.weight.to(x)).mean(),
            "mel": cfg.mel * mel_distance(x.exp(), y.exp(), [m.to(x) for m in self.mels]),
        }


class Decoding(Autoencoding):
    """Trains the decoder alone, on what the encoder as it is makes of the same batches."""

    def __init__(self, autoencoder: Autoencoder, cfg: AutoencodingConfig = AutoencodingConfig()):
        super().__init__(autoencoder, cfg)
        self.players = {"decoder": autoencoder.decoder}
        autoencoder.encoder.requires_grad_(False)
        self.fixed = {"codec": autoencoder}  # windows and statistics, too, must be where it learns
        self.turns = [Turn("decoder", self.loss)]


@dataclass(frozen=True)
class AdversarialConfig(AutoencodingConfig):
    """Weights of the two adversarial terms; resolutions of the critic's pictures, as frames and
    bands that are pooled; and its width."""

    gan: float = 0.2
    features: float = 1.0
    pools: tuple[tuple[int, int], ...] = ((1, 1), (2, 2), (4, 4))
    critic_width: int = 16


class AdversarialDecoding(Decoding):
    """Trains the decoder against a critic, too: distances alone leave it with the median of all
    that a latent may sound like, which is smoother in time and frequency than any of it."""

    def __init__(self, autoencoder: Autoencoder, cfg: AdversarialConfig = AdversarialConfig()):
        super().__init__(autoencoder, cfg)
        self.critic = SpectrogramCritic(len(cfg.pools), 1, cfg.critic_width)
        self.players["critic"] = self.critic
        self.turns.insert(0, Turn("critic", self.critic_loss))

    def critic_loss(self, batch: Batch, rng: torch.Generator) -> Losses:
        with torch.no_grad():
            x, mean, scale = self.encoded(batch)
            y = self.decoded(mean, scale, rng)
        return {"critic": critic_loss(self.judge(y), self.judge(x))}

    def loss(self, batch: Batch, rng: torch.Generator) -> Losses:
        with torch.no_grad():
            x, mean, scale = self.encoded(batch)
        y = self.decoded(mean, scale, rng)
        gan, features = generator_losses(self.judge(y), self.judge(x))
        return self.distances(x, y) | {
            "gan": self.cfg.gan * gan,
            "features": self.cfg.features * features,
        }

    def judge(self, log_bands: Float[Tensor, "b n bands"]) -> list[Verdict]:
        """The critic's verdicts on pictures whose pixels are mean powers, as logarithms."""
        power = (2 * log_bands[:, None]).exp()
        pooled = [F.avg_pool2d(power, pool) for pool in self.cfg.pools]
        return self.critic([(picture + 1e-12).log() / 6 + 2 for picture in pooled])


def mel_distance(
    x: Float[Tensor, "b n f"], y: Float[Tensor, "b n f"], mels: list[Float[Tensor, "f _"]]
) -> Float[Tensor, ""]:
    """Mean |log x - log y| over mel banks, floored at 80 dB below each clip's loudest band."""
    distances = []
    for mel in mels:
        a, b = x @ mel, y @ mel
        floor = 1e-4 * a.amax((1, 2), keepdim=True)
        distances.append(
            (a.maximum(floor).log() - (b + 0.1 * floor).maximum(floor).log()).abs().mean()
        )
    return torch.stack(distances).mean()


def band_weights(codec: Autoencoder) -> Float[Tensor, " bands"]:
    """Weights of mean 1: the square root of the share of an auditory filter that a band covers."""
    centres = band_centres(codec.config)
    weights = (centres.diff(append=2 * centres[-1:] - centres[-2:-1]) / erb(centres)).sqrt()
    return weights / weights.mean()


def mel_bank(count: int, bins: int, top: float) -> Float[Tensor, "f m"]:
    """Triangles of height one, equally spaced in mel (2595 log10(1 + Hz / 700)) up to `top` Hz."""
    steps = torch.linspace(0, 2595 * math.log10(1 + top / 700), count + 2, dtype=torch.float64)
    edges = 700 * (10 ** (steps / 2595) - 1)
    hz = torch.linspace(0, top, bins, dtype=torch.float64)[:, None]
    rising = (hz - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - hz) / (edges[2:] - edges[1:-1])
    return rising.minimum(falling).clamp_min(0).float()


@torch.no_grad()
def fit_linear_paths(codec: Autoencoder, log_bands: Float[Tensor, "b n bands"]) -> None:
    """Start `codec` as principal components of (weighted) patches with unit-variance latents."""
    weight = band_weights(codec).sqrt().repeat(codec.config.frames_per_latent)
    codec.band_mean.copy_(log_bands.mean((0, 1)))
    centred = (log_bands - codec.band_mean).unflatten(1, (-1, codec.config.frames_per_latent))
    patches = centred.flatten(2).flatten(0, 1) * weight
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    values, vectors = values[-codec.channels :].flip(0), vectors[:, -codec.channels :].flip(1)
    std = values.clamp_min(1e-8).sqrt()

    encode, decode = codec.encoder.linear, codec.decoder.linear
    encode.weight[: codec.channels] = ((vectors / std).T * weight)[..., None]
    encode.weight[codec.channels :] = 0
    encode.bias[: codec.channels] = 0
    encode.bias[codec.channels :] = math.log(0.2)
    decode.weight.copy_((vectors * std / weight[:, None])[..., None])
    decode.bias.zero_()


@torch.no_grad()
def standardise_latents(codec: Autoencoder, log_bands: Float[Tensor, "b n bands"]) -> None:
    """Measure each latent channel over `log_bands`, so that it has mean 0 and std sigma_data."""
    means = torch.cat([codec.encode_bands(part)[0] for part in log_bands.split(64)])
    codec.latent_mean.copy_(means.mean((0, 2)))
    codec.latent_std.copy_(means.std((0, 2)))
