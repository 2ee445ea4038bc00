"""What the bundled weights are trained on and for how long."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from presto_distill.objectives.autoencoding import AdversarialConfig
from presto_distill.presets import SMALL_LAYERS, SMALL_STEPS, SMALL_WARM_START
from presto_distill.trainer import TrainConfig
from presto_models import DiTConfig
from presto_models.sizes import micro


@dataclass(frozen=True)
class BundlePreset:
    """Data, sizes and lengths of every stage; the defaults are those of `cpu`."""

    seed: int = 0  # of the training songs; long songs have seed + 500, held-out ones seed + 1000
    training_seed: int = 0  # of denoisers: initialisation, order of crops and noise
    workers: int = 2  # processes that render

    codec: TrainConfig = TrainConfig(steps=8000, lr=1e-3, warmup=100, decay="cosine", compile=True)
    decoder: TrainConfig = TrainConfig(steps=3000, lr=1e-3, warmup=50, decay="cosine", compile=True)
    # Against a critic attacks are sharper (docs/results.md); None: a regression.
    decoder_critic: AdversarialConfig | None = AdversarialConfig()
    codec_clips: int = 2400
    codec_held_out: int = 24
    codec_seconds: float = 6.0
    codec_batch: tuple[int, int] = (16, 128)  # windows, spectrogram frames of each
    phase: TrainConfig = TrainConfig(steps=2000, lr=2e-3, warmup=50, decay="cosine")
    phase_clips: int = 800
    phase_batch: tuple[int, int] = (8, 32)  # crops, spectrogram frames of each
    iterations: int = 2  # of Griffin-Lim, after the learned phase

    clips: int = 2400
    held_out: int = 512
    clip_seconds: float = 10.5
    embedder: TrainConfig = TrainConfig(steps=400, lr=1e-3, warmup=50, decay="cosine")
    embedder_batch: int = 64

    long_clips: int = 360  # besides, so that models know 32 s too
    long_seconds: float = 33.0
    dit: DiTConfig = replace(micro(), frame_rate=44_100 / 2048, key=True)
    tempo_dropout: float = 0.15  # of crops, so that a prompt need not state one
    key_dropout: float = 0.5  # likewise
    frames_and_batch: tuple[tuple[int, int], ...] = (
        (64, 24),
        (216, 8),
        (64, 24),
        (216, 8),
        (689, 3),
    )
    base: TrainConfig = TrainConfig(steps=14_000, lr=1e-3, warmup=200, decay="cosine", compile=True)
    # Above 20 training noise is rare and, without a condition, rarer still: the base does not know
    # there what guidance compares with (docs/results.md).
    guidance_interval: tuple[float, float] = (0.0, 20.0)

    layers: TrainConfig = replace(SMALL_LAYERS, steps=12_000, ema_decay=0.99, compile=True)
    # Of CFG++, to sample Presto-L by: so it follows its prompts as the base at 0.8 does
    # (docs/model_card.md).
    layers_guidance_scale: float = 0.6
    # Of the teacher of few-step generators, within that interval. 1 and 2 were tried, after a fifth
    # of the warm start (docs/model_card.md).
    guidance_scale: float = 1.5
    trajectories: tuple[tuple[int, int, int], ...] = (  # frames, clips, batch
        (64, 9216, 32),
        (216, 2304, 10),
        (689, 576, 3),
    )
    warm_start: TrainConfig = replace(SMALL_WARM_START, steps=6000, ema_decay=0.99, compile=True)
    steps: TrainConfig = replace(SMALL_STEPS, steps=60)

    stereo: TrainConfig = TrainConfig(steps=1500, lr=1e-3, warmup=50, decay="cosine")
    stereo_clips: int = 400
    stereo_held_out: int = 48
    stereo_seconds: float = 6.0
    stereo_batch: tuple[int, int] = (6, 49_152)  # crops, samples of each

    def __post_init__(self) -> None:
        if self.training_seed < 0:
            raise ValueError(f"training seed must not be negative, got {self.training_seed}")

    @property
    def dropout(self) -> dict[str, float]:
        """Shares of crops that keep to themselves what their network could be told."""
        key = {"key_dropout": self.key_dropout} if self.dit.key else {}
        return {"tempo_dropout": self.tempo_dropout, **key}


def cpu() -> BundlePreset:
    """Two CPU cores, over night: what is bundled."""
    return BundlePreset()


def gpu() -> BundlePreset:
    """One GPU. Sized by estimate; not yet run."""
    cpu = BundlePreset()
    return replace(
        cpu,
        workers=14,
        codec=replace(cpu.codec, steps=40_000),
        decoder=replace(cpu.decoder, steps=10_000),
        codec_batch=(64, 128),
        phase=replace(cpu.phase, steps=20_000),
        phase_clips=2400,
        phase_batch=(64, 32),
        clips=12_000,
        long_clips=2400,
        frames_and_batch=((64, 192), (216, 64), (64, 192), (216, 64), (689, 24)),
        base=replace(cpu.base, steps=100_000, warmup=1000, ema_decay=0.9999),
        layers=replace(SMALL_LAYERS, steps=10_000, ema_decay=0.999),
        trajectories=((64, 12_288, 256), (216, 3072, 80), (689, 768, 24)),
        warm_start=replace(SMALL_WARM_START, steps=6000, ema_decay=0.99),
        steps=replace(SMALL_STEPS, steps=3000, ema_decay=0.99),
        stereo=replace(cpu.stereo, steps=20_000),
        stereo_clips=2400,
    )


def smallest() -> BundlePreset:
    """Every stage once, in a minute: for tests."""
    return BundlePreset(
        codec=TrainConfig(steps=2),
        decoder=TrainConfig(steps=2),
        codec_clips=2,
        codec_held_out=2,
        codec_seconds=4.0,
        codec_batch=(2, 32),
        phase=TrainConfig(steps=2),
        phase_clips=2,
        phase_batch=(2, 32),
        clips=24,
        held_out=16,
        long_clips=4,
        long_seconds=12.0,
        embedder=TrainConfig(steps=2, lr=1e-3),
        embedder_batch=8,
        base=TrainConfig(steps=2, lr=1e-3),
        layers=replace(SMALL_LAYERS, steps=2),
        warm_start=replace(SMALL_WARM_START, steps=1),
        steps=replace(SMALL_STEPS, steps=1),
        frames_and_batch=((32, 4),),
        trajectories=((32, 8, 4),),
        stereo=TrainConfig(steps=2),
        stereo_clips=2,
        stereo_held_out=2,
        stereo_seconds=1.0,
        stereo_batch=(2, 16_384),
        workers=0,
    )


PRESETS: dict[str, Callable[[], BundlePreset]] = {
    function.__name__: function for function in (smallest, cpu, gpu)
}
