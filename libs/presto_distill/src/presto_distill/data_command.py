"""What `presto data encode | info | plan` do: music to latents on disk, and a look at them."""

import json
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from presto_distill.subcommands import one_of

if TYPE_CHECKING:
    from presto_data import Corpus
    from presto_data.plan import Rates


def encode(
    *,
    corpus: str,
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    seconds: float = 32.0,
    model: str = "presto-small",
    device: str = "cpu",
    batch_size: int = 16,
    workers: int = 0,
    strict: bool = False,
    seed: int = 0,
    copies: int = 0,
    no_vocals: Path | None = None,
) -> int:
    """Encode music into shards of latents, e.g. presto data encode --corpus my-music --out latents

    Killed, it goes on when it is started again. Several processes, also on several machines that
    see the same folder, share the work when each is started with the same arguments. What cannot
    be used is left out and listed at the end, which is no failure (exit code 0).

    Args:
        corpus: A folder of recordings, a manifest (.csv, .jsonl or .parquet), song-describer:DIR,
            or synthetic:COUNT and songs:COUNT for rendered excerpts and whole songs.
        out: Folder that receives a folder of shards, named by what it was made from.
        seconds: Length of a clip.
        model: A bundled model or a model folder, whose codec encodes.
        device: cpu or cuda.
        batch_size: Clips encoded at a time: the most that a kill can cost.
        workers: Processes that read clips, beside this one that encodes them.
        strict: Stop at the first clip that cannot be used, with exit code 2.
        seed: Of the rendered music, and of copies.
        copies: Instead of every clip so many copies of it, each with another pitch and tempo.
        no_vocals: For song-describer: a file of the ids of tracks without vocals, and only those.
    """
    from presto_data import Augment, augmented, encode_corpus, report
    from presto_distill.devices import check_device
    from presto_distill.experiment import file_digest
    from presto_models import Autoencoder
    from presto_models.snapshot import find_snapshot

    check_device(device)
    folder = find_snapshot(model) / "codec"
    codec = Autoencoder.from_pretrained(folder, device=device)
    augment = Augment(seconds=seconds)
    longer = seconds * augment.rate[1] + 0.01  # what the fastest copy is made of
    made = open_corpus(
        corpus,
        seconds=longer if copies else seconds,
        sample_rate=codec.sample_rate,
        seed=seed,
        strict=strict,
        no_vocals=no_vocals,
    )
    made = augmented(made, augment, copies=copies, seed=seed) if copies else made
    shards = encode_corpus(
        made,
        lambda audio: codec.encode_distribution(audio.to(device)),
        out,
        key={"codec": file_digest(folder / "model.safetensors"), "latents": "mean and scale"},
        hop_length=codec.hop_length,
        batch_size=batch_size,
        workers=workers,
        strict=strict,
    )
    hours, count = shards.stats["hours"], len(shards)
    print(f"{shards.path}: {count:,} clips, {hours:,.2f} hours")
    if shards.stats["warning"]:
        print(f"presto: {shards.stats['warning']}", file=sys.stderr)
    print(report(shards.problems) or "nothing was left out")
    return 0


def open_corpus(
    name: str,
    *,
    seconds: float,
    sample_rate: int,
    seed: int,
    strict: bool,
    no_vocals: Path | None = None,
) -> "Corpus":
    """Return the corpus that a name on the command line means; ValueError where it means none."""
    from presto_data import folder_corpus, manifest_corpus, song_describer, synthetic_corpus
    from presto_data.synthetic import SAMPLE_RATE

    kind, _, rest = name.partition(":")
    if no_vocals and kind != "song-describer":
        raise ValueError(f"--no-vocals is a list of Song Describer's tracks, and not of {name}")
    if kind in ("synthetic", "songs") and rest.isdecimal():
        if sample_rate != SAMPLE_RATE:
            raise ValueError(
                f"the codec works at {sample_rate} Hz, rendered music at {SAMPLE_RATE}"
            )
        whole = kind == "songs"
        return synthetic_corpus(int(rest), seed=seed, seconds=seconds, whole_songs=whole)
    # Faults inside recordings are found while they are encoded: thousands of hours are read once.
    reading = {"seconds": seconds, "sample_rate": sample_rate, "strict": strict, "check": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they name what the report at the end will
        if kind == "song-describer":
            subset = "no-vocals" if no_vocals else "all"
            return song_describer(rest, subset=subset, no_vocals_ids=no_vocals, **reading)
        if Path(name).is_dir():
            return folder_corpus(name, **reading)
        if Path(name).is_file():
            return manifest_corpus(name, **reading)
    raise ValueError(
        f"no corpus {name!r}: give a folder of recordings, a manifest (.csv, .jsonl, .parquet), "
        "song-describer:DIR, synthetic:COUNT or songs:COUNT"
    )


def info(path: tyro.conf.Positional[Path]) -> int:
    """Print what is in a folder of encoded music and whether its latents suit a denoiser.

    Args:
        path: The folder that `presto data encode` wrote.
    """
    from presto_data import LatentShards
    from presto_data.info import info as describe

    print(describe(LatentShards(path)))
    return 0


def plan(
    *,
    hours: float = 3600.0,
    workers: tuple[int, ...] = (1, 8, 64),
    seconds: float = 32.0,
    rates: Path | None = None,
    rate: float | None = None,
    means_only: bool = False,
    model: str = "presto-small",
) -> int:
    """Print the disk, shards and time that encoding takes, from rates measured on such a machine.

    Args:
        hours: Of music; the paper has 3,600.
        workers: Numbers of processes.
        seconds: Length of a clip.
        rates: A file that `python benchmarks/data.py --rates FILE` wrote.
        rate: Instead, seconds of audio that one process encodes per second.
        means_only: Without the scale of the posterior.
        model: A bundled model or a model folder, whose codec encodes.
    """
    from presto_data.plan import Rates
    from presto_data.plan import plan as make_plan
    from presto_models import Autoencoder
    from presto_models.snapshot import find_snapshot

    if (rates is None) == (rate is None):
        raise ValueError("give either --rates FILE (python benchmarks/data.py writes it) or --rate")
    measured = Rates(rate, rate) if rates is None else read_rates(rates)
    codec = Autoencoder.from_pretrained(find_snapshot(model) / "codec")
    made = make_plan(
        hours,
        measured,
        workers=workers,
        clip_seconds=seconds,
        frames=-(-round(seconds * codec.sample_rate) // codec.hop_length),
        channels=codec.channels,
        scales=not means_only,
    )
    print(f"{hours:,g} hours in clips of {seconds:g} s: {made}")
    return 0


def read_rates(path: Path) -> "Rates":
    """Rates that the benchmark measured; ValueError for any other file."""
    from presto_data.plan import Rates

    try:
        return Rates(**json.loads(path.read_text())["encode"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: no measured rates ({error})") from None


Command = one_of({"encode": encode, "info": info, "plan": plan})


def data(command: Command) -> int:
    """Encode music into shards of latents, look at them, plan for more: encode | info | plan.

    Args:
        command: What to do.
    """
    return command
