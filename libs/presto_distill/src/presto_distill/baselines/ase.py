"""ASE, the layer dropping that Presto-L improves on (Moon et al. 2024, "A Simple Early Exiting
Framework for Accelerated Sampling in Diffusion Models", ICML).

It is Presto-L's objective with the last blocks dropped, no word to the network about how many will
run, and no self-teacher. Left open or simplified: the public schedule is for 28 blocks and tenths
of the paper's own process, which we read as tenths of the training noise and scale to other depths;
EDM's loss weights replace the paper's, the trainer's settings its fine-tuning; where ASE runs all
blocks while training we run those that are kept.
"""

from dataclasses import replace

import torch

from presto_distill.objectives.presto_l import PrestoLConfig
from presto_models.dit import PrestoDenoiser
from presto_models.edm import LogNormal, SigmaLaw
from presto_models.layer_schedule import LayerSchedule, ase_schedule


def ase(depth: int, p_train: SigmaLaw = LogNormal()) -> tuple[PrestoLConfig, LayerSchedule]:
    """Config and schedule that make `PrestoL(ase_denoiser(base), null, schedule, config)` ASE."""
    return PrestoLConfig(p_train=p_train, nu=0.0), ase_schedule(depth, p_train)


@torch.no_grad()
def ase_denoiser(base: PrestoDenoiser) -> PrestoDenoiser:
    """A copy of `base` that drops its last blocks and is not told how many.

    A base that was told gets the embedding of its full depth added to a bias instead, so that at
    full depth nothing changes (but for rounding; without an embedding it is equal bit for bit).
    """
    dit = replace(base.config.dit, drop="tail", budget_embedding=False)
    copy = PrestoDenoiser(replace(base.config, dit=dit, schedule=None))
    weights = {name: value.clone() for name, value in base.state_dict().items()}
    told = weights.pop("inner.budget.weight", None)
    if told is not None:
        weights["inner.noise.out.bias"] += told[-1]
    copy.load_state_dict(weights)
    return copy.train(base.training)
