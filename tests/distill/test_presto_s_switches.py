"""What each ablation switch of Presto-S changes, and that it changes nothing else."""

from itertools import pairwise

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from presto_distill import losses
from presto_distill.discriminator import DiscriminatorHead
from presto_distill.objectives.presto_s import PrestoS, PrestoSConfig
from presto_models.conditioning import null_condition
from presto_models.edm import LogNormal, add_noise, sample_sigma

BATCH, CHANNELS, FRAMES, WIDTH, DEPTH = 4, 4, 32, 16, 4


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def objective(tiny_denoiser):
    """Builds Presto-S of tiny networks, all three of them different."""

    def build(feature_layer=1, **changes) -> PrestoS:
        torch.manual_seed(0)
        return PrestoS(
            tiny_denoiser(seed=1),
            null_condition,
            PrestoSConfig(**changes),
            feature_layer=feature_layer,
            width=WIDTH,
            generator=tiny_denoiser(seed=2),
            fake_score=tiny_denoiser(seed=3),
        )

    return build


def reached(module) -> list[bool]:
    return [p.grad is not None and bool(p.grad.any()) for p in module.parameters()]


def test_a_head_on_the_teacher_leaves_the_fake_score_to_its_denoising_loss(objective, batch):
    objective = objective(features="teacher")
    objective.critic_loss(batch, rng())["gan_d"].backward()
    assert all(reached(objective.head))
    assert not any(reached(objective.fake_score))
    objective.players["critic"].requires_grad_(False)
    objective.generator_loss(batch, rng())["gan_g"].backward()
    assert sum(reached(objective.generator)) > 0.8 * len(reached(objective.generator))
    assert not any(reached(objective.fixed["teacher"]))


@pytest.mark.parametrize("features", ["fake_score", "teacher"])
def test_the_head_reads_the_network_it_is_told_to(objective, batch, features):
    objective = objective(features=features)
    net = objective.fake_score if features == "fake_score" else objective.fixed["teacher"]
    terms = objective.generator_loss(batch, rng(5))
    source = rng(5)
    fake = objective.generate(batch, source)
    add_noise(fake, sample_sigma(LogNormal(), BATCH, source), source)  # for the matching term
    sigma = sample_sigma(LogNormal(), BATCH, source)
    hidden = net.features(add_noise(fake, sigma, source), sigma, batch.cond, tap=(1,))
    expected = 0.01 * losses.lsgan_generator(objective.head(hidden)).mean()
    torch.testing.assert_close(terms["gan_g"], expected)


def test_several_blocks_are_read_by_a_head_each(objective, batch):
    objective = objective(feature_layer=(0, 2))
    assert len(objective.head.heads) == 2
    sigma, net = torch.ones(BATCH), objective.fake_score
    together = objective._score_noised(batch.x, sigma, batch.cond)
    alone = [
        head(net.features(batch.x, sigma, batch.cond, tap=tap))
        for head, tap in zip(objective.head.heads, (0, 2), strict=True)
    ]
    torch.testing.assert_close(together, torch.cat(alone, dim=1))
    terms = objective.critic_loss(batch, rng())
    sum(terms.values()).backward()
    assert all(reached(objective.head))


def test_the_r1_penalty_in_closed_form(objective, batch):
    """The same draws with and without it: one more pass on real clips, nudged by its noise."""
    plain, penalised = objective(), objective(r1=3.0, r1_sigma=0.2)
    without, terms = plain.critic_loss(batch, rng(5)), penalised.critic_loss(batch, rng(5))
    assert terms.keys() - without.keys() == {"r1"}
    torch.testing.assert_close({name: terms[name] for name in without}, without)
    source = rng(5)
    fake = plain.generate(batch, source)
    add_noise(fake, sample_sigma(LogNormal(), BATCH, source), source)
    sigma = sample_sigma(LogNormal(), BATCH, source)
    noised = add_noise(batch.x, sigma, source)
    near = noised + 0.2 * torch.randn(noised.shape, generator=source)
    one, two = (penalised._score_noised(x, sigma, batch.cond) for x in (noised, near))
    torch.testing.assert_close(terms["r1"], 0.005 * 3 * (one - two).square().mean())


def test_the_fake_scores_loss_is_weighted_unless_told_otherwise(objective, batch):
    options = dict(nu_1=0.0, nu_2=0.0, p_dsm=LogNormal(P_std=0.3))
    weighted = objective(**options).critic_loss(batch, rng(5))["dsm"]
    plain = objective(**options, weighted_dsm=False)
    source = rng(5)
    fake = plain.generate(batch, source)
    sigma = sample_sigma(options["p_dsm"], BATCH, source)
    D_fake = plain.fake_score(add_noise(fake, sigma, source), sigma, batch.cond)
    error = (D_fake - fake).square().mean((1, 2))
    torch.testing.assert_close(plain.critic_loss(batch, rng(5))["dsm"], error.mean())
    weight = (sigma**2 + 0.25) / (sigma * 0.5) ** 2
    torch.testing.assert_close(weighted, (weight * error).mean())


@pytest.mark.parametrize("gan", ["least_squares", "softplus", "hinge"])
@pytest.mark.parametrize("pooled", [True, False])
def test_every_adversarial_loss_and_head_reaches_both_players(objective, batch, gan, pooled):
    objective = objective(gan=gan, pooled=pooled)
    with torch.no_grad():  # small scores: the hinge is flat beyond 1
        objective.head.heads[0].score.weight.mul_(0.1)
    sum(objective.critic_loss(batch, rng()).values()).backward()
    assert all(reached(objective.head.heads[0].layers))
    objective.generator_loss(batch, rng())["gan_g"].backward()
    assert any(reached(objective.generator))


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"critic_updates": 0}, "critic_updates must be at least 1, got 0"),
        ({"nu_2": -1.0}, "nu_2 must not be negative, got -1"),
        ({"guidance_scale": -1.0}, "guidance_scale must not be negative, got -1"),
        ({"nu_1": -0.1}, "nu_1 must not be negative, got -0.1"),
        ({"head_layers": -1}, "head_layers must not be negative, got -1"),
    ],
)
def test_wrong_values_are_refused_when_configured(wrong, reason):
    with pytest.raises(ValueError, match=reason):
        PrestoSConfig(**wrong)


def test_a_generator_does_not_follow_a_head_that_never_learns(objective, tiny_denoiser):
    with pytest.raises(ValueError, match="nu_2=0 leaves the discriminator head untrained"):
        objective(nu_2=0.0)
    cfg, trained = PrestoSConfig(nu_2=0.0), DiscriminatorHead(WIDTH)
    taps = {"feature_layer": 1, "width": WIDTH}
    assert PrestoS(tiny_denoiser(), null_condition, cfg, head=trained, **taps).head is trained


def test_a_head_takes_any_width():
    assert DiscriminatorHead(12, layers=2)(torch.zeros(3, 16, 12)).shape == (3, 4)


# --- cost ----------------------------------------------------------------------------------------


def flops(run) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def test_a_shared_critic_pass_and_passes_that_stop_at_the_tap_cost_less(objective, batch):
    """p_dsm = p_gan shares one forward pass; a law that differs only in name pays for two."""
    same, other = LogNormal(), LogNormal(sigma_max=79.0)

    def cost(p_gan, tap):
        one = objective(feature_layer=tap, p_gan=p_gan)
        return flops(lambda: sum(one.critic_loss(batch, rng()).values()).backward())

    assert cost(same, 1) < cost(other, 1)
    # What sharing saves: a forward and a backward of the blocks up to the tap.
    saved = [cost(other, tap) - cost(same, tap) for tap in (0, 1, 2)]
    assert saved[0] < saved[1] < saved[2]


def test_features_run_no_block_beyond_the_tap(tiny_denoiser, batch):
    D, sigma = tiny_denoiser(), torch.ones(BATCH)
    call = (batch.x, sigma, batch.cond)
    costs = [flops(lambda tap=tap: D.features(*call, tap=tap)) for tap in range(DEPTH)]
    steps = {later - earlier for earlier, later in pairwise(costs)}
    assert len(steps) == 1 and steps.pop() > 0  # one more block each
    assert costs[-1] < flops(lambda: D(*call))
