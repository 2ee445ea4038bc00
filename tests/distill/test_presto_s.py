"""Presto-S: who is called at which noise, who receives which gradient, and where it converges."""

import pytest
import torch
from torch import nn

from presto_distill import losses
from presto_distill.objective import Batch, Turn
from presto_distill.objectives.presto_s import PrestoS, PrestoSConfig
from presto_distill.trainer import TrainConfig, Trainer
from presto_models.conditioning import null_condition
from presto_models.edm import Discrete, KarrasUniform, LogNormal, add_noise, sample_sigma

BATCH, CHANNELS, FRAMES, WIDTH, TAP = 4, 4, 16, 16, 1
ONE_LEVEL_EACH = dict(
    p_gen=Discrete((1.0,)), p_dmd=Discrete((2.0,)), p_dsm=Discrete((3.0,)), p_gan=Discrete((4.0,))
)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def objective(tiny_denoiser):
    """Builds Presto-S of tiny networks, all three of them different."""

    def build(**changes) -> PrestoS:
        torch.manual_seed(0)
        objective = PrestoS(
            tiny_denoiser(seed=1),
            null_condition,
            PrestoSConfig(**changes),
            feature_layer=TAP,
            width=WIDTH,
            generator=tiny_denoiser(seed=2),
        )
        objective.fake_score.load_state_dict(tiny_denoiser(seed=3).state_dict())
        return objective

    return build


def take(objective, turn: Turn, batch: Batch) -> dict[str, float]:
    """Let the trainer take one turn and nothing else."""
    objective.turns = [turn]
    record = next(Trainer(objective, TrainConfig(steps=1)).run(lambda start: iter([batch])))
    return record.losses


def weights(module: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in module.parameters()]


def same(module: nn.Module, before: list[torch.Tensor]) -> list[bool]:
    return [torch.equal(p, old) for p, old in zip(module.parameters(), before, strict=True)]


# --- turns and noise laws ------------------------------------------------------------------------


@pytest.mark.parametrize("updates", [1, 5])
def test_five_critic_turns_then_one_generator_turn(objective, updates):
    turns = objective(critic_updates=updates).turns
    assert [turn.player for turn in turns] == ["critic"] * updates + ["generator"]


def test_published_defaults():
    cfg = PrestoSConfig()
    assert (cfg.nu_1, cfg.nu_2, cfg.critic_updates, cfg.guidance_scale) == (0.01, 0.005, 5, 4.5)
    assert cfg.p_gen == KarrasUniform(rho=7.0)
    assert cfg.p_dmd == cfg.p_dsm == cfg.p_gan == LogNormal()


class Recorder(nn.Module):
    """A denoiser that notes its name, noise levels, condition and whether gradients flow."""

    def __init__(self, name: str, log: list):
        super().__init__()
        self.name, self.log = name, log
        self.gain = nn.Parameter(torch.tensor(0.5))

    def forward(self, x, sigma, cond, **options):
        self.log.append((self.name, sigma, cond.tempo.any().item(), torch.is_grad_enabled()))
        D_x = self.gain * x
        return (D_x, (self._hidden(D_x),)) if "tap" in options else D_x

    def features(self, x, sigma, cond, *, tap):
        self.log.append((f"{self.name} features", sigma, cond.tempo.any().item(), None))
        return (self._hidden(self.gain * x),)

    @staticmethod
    def _hidden(x):
        return x.transpose(1, 2).repeat(1, 1, WIDTH // CHANNELS)

    def __deepcopy__(self, memo):
        return Recorder(self.name, self.log)  # a copied log would no longer be the shared one


@pytest.fixture
def recorded():
    """Builds Presto-S of recorders, and the log they share."""

    def build(**changes):
        log: list = []
        objective = PrestoS(
            Recorder("teacher", log),
            null_condition,
            PrestoSConfig(**changes),
            feature_layer=TAP,
            width=WIDTH,
            generator=Recorder("generator", log),
        )
        objective.fake_score.name = "fake"
        return objective, log

    return build


def test_generator_turn_calls_each_network_at_its_own_noise(recorded, batch):
    objective, log = recorded(**ONE_LEVEL_EACH)
    objective.generator_loss(batch, rng())
    calls = [(name, sigma.unique().tolist(), told) for name, sigma, told, _ in log]
    assert calls[0] == ("generator", [1.0], True)
    assert calls[1] == ("fake", [2.0], True)
    assert sorted(calls[2:4]) == [("teacher", [2.0], False), ("teacher", [2.0], True)]
    assert calls[4:] == [("fake features", [4.0], True)]
    assert [grad for _, _, _, grad in log[:4]] == [True, False, False, False]


def test_critic_turn_calls_each_network_at_its_own_noise(recorded, batch):
    objective, log = recorded(**ONE_LEVEL_EACH)
    objective.critic_loss(batch, rng())
    calls = [(name, sigma.unique().tolist(), grad) for name, sigma, _, grad in log]
    assert calls == [
        ("generator", [1.0], False),
        ("fake", [3.0], True),
        ("fake features", [4.0], None),  # generated clips
        ("fake features", [4.0], None),  # real clips
    ]


def test_noise_levels_are_drawn_per_sample_and_per_use(recorded, batch):
    """Under one law for all uses, only fake score and teacher share their levels."""
    law = LogNormal()
    objective, log = recorded(p_gen=law, p_dmd=law, p_dsm=law, p_gan=law, guidance_scale=1.0)
    objective.generator_loss(batch, rng())
    generator, fake, teacher, discriminator = (sigma.tolist() for _, sigma, _, _ in log)
    assert fake == teacher
    assert len({*generator, *fake, *discriminator}) == 3 * BATCH
    log.clear()
    objective.critic_loss(batch, rng())
    assert len({level for _, sigma, _, _ in log for level in sigma.tolist()}) == 3 * BATCH


@pytest.mark.parametrize(("nu", "left_out"), [("nu_1", "gan_g"), ("nu_2", "gan_d")])
def test_a_zero_weight_leaves_the_adversarial_term_out(recorded, batch, nu, left_out):
    objective, log = recorded(**{"nu_1": 0.0, nu: 0.0})
    loss = objective.generator_loss if nu == "nu_1" else objective.critic_loss
    assert left_out not in loss(batch, rng())
    assert not any("features" in name for name, *_ in log)


# --- values --------------------------------------------------------------------------------------


def test_the_teacher_is_guided_plainly_at_four_and_a_half(objective, tiny_denoiser, batch):
    D, sigma = tiny_denoiser(seed=1), torch.rand(BATCH, generator=rng()) + 0.1
    with_cond, without = (
        D(batch.x, sigma, batch.cond),
        D(batch.x, sigma, null_condition(batch.cond)),
    )
    torch.testing.assert_close(
        objective().teacher(batch.x, sigma, batch.cond), without + 4.5 * (with_cond - without)
    )


def test_generator_matching_gradient_is_fake_minus_teacher(objective, batch):
    """The gradient reaching the generated clip, against the formula, with the same draws."""
    objective = objective(nu_1=0.0)
    source, x, cond = rng(5), batch.x, batch.cond
    with torch.no_grad():
        sigma = sample_sigma(KarrasUniform(), BATCH, source)
        fake = objective.generator(add_noise(x, sigma, source), sigma, cond)
        sigma = sample_sigma(LogNormal(), BATCH, source)
        noised = add_noise(fake, sigma, source)
        real = objective.teacher(noised, sigma, cond)
        gradient = objective.fake_score(noised, sigma, cond) - real
        gradient /= (fake - real).abs().mean((1, 2), keepdim=True)

    generated = []
    objective.generator.register_forward_hook(
        lambda module, inputs, output: output.retain_grad() or generated.append(output)
    )
    sum(objective.generator_loss(batch, rng(5)).values()).backward()
    torch.testing.assert_close(generated[0].grad, gradient / fake.numel(), rtol=1e-4, atol=1e-7)


def test_one_forward_for_both_critic_terms_equals_two(objective, batch):
    """With p_dsm = p_gan the pass is shared; two passes at that noise give the same gradients."""
    objective = objective()
    objective.generator.requires_grad_(False)
    fake_score, head = objective.fake_score, objective.head
    objective_terms = objective.critic_loss(batch, rng(5))
    sum(objective_terms.values()).backward()
    critic = objective.players["critic"]
    shared = [p.grad.clone() for p in critic.parameters() if p.grad is not None]
    critic.zero_grad()

    source, cond = rng(5), batch.cond
    with torch.no_grad():
        fake = objective.generate(batch, source)
    sigma = sample_sigma(LogNormal(), BATCH, source)
    noised = add_noise(fake, sigma, source)
    dsm = losses.denoising(fake_score(noised, sigma, cond), fake, sigma).mean()
    on_fake = head(fake_score.features(noised, sigma, cond, tap=(TAP,)))
    sigma = sample_sigma(LogNormal(), BATCH, source)
    on_real = head(fake_score.features(add_noise(batch.x, sigma, source), sigma, cond, tap=(TAP,)))
    gan = 0.005 * losses.lsgan_discriminator(on_fake, on_real).mean()
    torch.testing.assert_close(objective_terms, {"dsm": dsm, "gan_d": gan})
    (dsm + gan).backward()
    separate = [p.grad for p in critic.parameters() if p.grad is not None]
    assert len(shared) == len(separate)
    one, two = (torch.cat([g.flatten() for g in grads]) for grads in (shared, separate))
    assert (one - two).norm() <= 1e-6 * two.norm()


@pytest.mark.parametrize("gan", ["least_squares", "softplus"])
def test_the_generators_adversarial_term_is_weighted_by_nu_1(objective, batch, gan):
    terms = [objective(nu_1=nu, gan=gan).generator_loss(batch, rng()) for nu in (0.01, 0.02)]
    torch.testing.assert_close(2 * terms[0]["gan_g"], terms[1]["gan_g"])
    assert torch.equal(terms[0]["dm"], terms[1]["dm"])


def test_the_teacher_is_guided_only_where_it_says_that_guidance_is_sound(tiny_denoiser, batch):
    D, law = tiny_denoiser(seed=1, guidance_interval=(0.5, 2.0)), Discrete((0.4, 1.0, 3.0))
    G, F = tiny_denoiser(seed=2), tiny_denoiser(seed=3)
    objective = PrestoS(
        D,
        null_condition,
        PrestoSConfig(nu_1=0.0, p_dmd=law, weighting="none"),
        feature_layer=TAP,
        width=WIDTH,
        generator=G,
        fake_score=F,
    )
    (x, cond), source = batch, rng(2)
    sigma = sample_sigma(KarrasUniform(), BATCH, source)
    fake = G(add_noise(x, sigma, source), sigma, cond)
    sigma = sample_sigma(law, BATCH, source)
    assert sigma.unique().tolist() == pytest.approx([0.4, 1.0, 3.0])
    noised = add_noise(fake, sigma, source)
    D_cond, D_null = D(noised, sigma, cond), D(noised, sigma, null_condition(cond))
    scale = torch.where(sigma == 1.0, 4.5, 1.0).view(-1, 1, 1)
    real = D_null + scale * (D_cond - D_null)
    expected = (fake * (F(noised, sigma, cond) - real)).mean()
    torch.testing.assert_close(objective.generator_loss(batch, rng(2)), {"dm": expected})


# --- gradients -----------------------------------------------------------------------------------


def test_a_generator_turn_moves_the_generator_alone(objective, batch):
    objective = objective()
    critic, generator = weights(objective.players["critic"]), weights(objective.generator)
    assert take(objective, objective.turns[-1], batch).keys() == {"dm", "gan_g"}
    assert all(same(objective.players["critic"], critic))
    assert all(p.grad is None for p in objective.players["critic"].parameters())
    assert not all(same(objective.generator, generator))


def test_a_critic_turn_moves_fake_score_and_head_alone(objective, batch):
    objective = objective()
    before = {
        "generator": weights(objective.generator),
        "fake_score": weights(objective.fake_score.inner.blocks),
        "head": weights(objective.head),
    }
    assert take(objective, objective.turns[0], batch).keys() == {"dsm", "gan_d"}
    assert all(same(objective.generator, before["generator"]))
    assert all(p.grad is None for p in objective.generator.parameters())
    assert not any(same(objective.head, before["head"]))
    assert not any(same(objective.fake_score.inner.blocks, before["fake_score"]))


def test_the_adversarial_gradient_reaches_the_fake_score_up_to_its_tap(objective, batch):
    objective = objective()
    objective.critic_loss(batch, rng())["gan_d"].backward()
    for i, block in enumerate(objective.fake_score.inner.blocks):
        reached = [p.grad is not None and bool(p.grad.any()) for p in block.parameters()]
        assert all(reached) if i <= TAP else not any(reached)


def test_the_adversarial_gradient_reaches_the_generator_through_the_noised_clip(objective, batch):
    objective = objective()
    objective.players["critic"].requires_grad_(False)
    objective.generator_loss(batch, rng())["gan_g"].backward()
    reached = [p.grad is not None and bool(p.grad.any()) for p in objective.generator.parameters()]
    assert sum(reached) > 0.8 * len(reached)


def test_players_are_copies_of_the_teacher_which_never_changes(tiny_denoiser, batch):
    teacher = tiny_denoiser()
    before = weights(teacher)
    objective = PrestoS(teacher, null_condition, feature_layer=TAP, width=WIDTH)
    assert all(same(objective.generator, before))
    assert all(same(objective.fake_score, before))
    call = batch.x, torch.ones(BATCH), batch.cond
    guided = objective.teacher(*call)
    assert not guided.requires_grad

    trainer = Trainer(objective, TrainConfig(steps=1, lr=0.01))
    for _ in trainer.run(lambda start: iter([batch] * 6)):
        pass
    assert not all(same(objective.generator, before))
    assert not all(same(objective.fake_score, before))
    assert all(same(teacher, before))
    teacher.requires_grad_(False).inner.output.weight.zero_()
    assert torch.equal(objective.teacher(*call), guided)  # it is a copy, and frozen


# --- convergence ---------------------------------------------------------------------------------

DATA = (1.0, 0.5)  # mean and deviation of the real data
START = (-0.5, 1.2)  # of the generated data at first


class Gaussian(nn.Module):
    """The exact denoiser of N(mean, deviation^2), whose two parameters may learn."""

    def __init__(self, mean: float, deviation: float):
        super().__init__()
        self.mean = nn.Parameter(torch.tensor(mean))
        self.log_deviation = nn.Parameter(torch.tensor(deviation).log())

    def forward(self, x, sigma, cond, **options):
        variance, noise = (2 * self.log_deviation).exp(), sigma.view(-1, 1, 1) ** 2
        return (variance * x + noise * self.mean) / (variance + noise)

    def features(self, x, sigma, cond, *, tap):
        raise AssertionError("without adversarial terms nobody reads features")


class AffineGenerator(nn.Module):
    """Standardises its input exactly, whatever its noise, then scales and shifts what it has."""

    def __init__(self, mean: float, deviation: float):
        super().__init__()
        self.mean = nn.Parameter(torch.tensor(mean))
        self.log_deviation = nn.Parameter(torch.tensor(deviation).log())

    def forward(self, x, sigma, cond):
        unit = (x - DATA[0]) / (DATA[1] ** 2 + sigma.view(-1, 1, 1) ** 2).sqrt()
        return self.mean + self.log_deviation.exp() * unit


def real_batches(start: int):
    while True:
        x = DATA[0] + DATA[1] * torch.randn(64, 1, 16, generator=rng(start))
        yield Batch(x)
        start += 1


@pytest.mark.parametrize("weighting", ["dmd", "edm", "none"])
def test_a_wrong_generator_converges_to_the_data(weighting):
    """Both players learn, as published: five critic turns to one of the generator."""
    objective = PrestoS(
        Gaussian(*DATA),
        lambda cond: cond,
        PrestoSConfig(nu_1=0.0, nu_2=0.0, weighting=weighting),
        feature_layer=0,
        width=8,
        generator=AffineGenerator(*START),
    )
    cfg = TrainConfig(steps=200, lr={"generator": 0.05, "critic": 0.05}, decay="cosine")
    for _ in Trainer(objective, cfg).run(real_batches):
        pass
    for player in (objective.generator, objective.fake_score):
        assert player.mean.item() == pytest.approx(DATA[0], abs=0.05)
        assert player.log_deviation.exp().item() == pytest.approx(DATA[1], abs=0.05)


def test_the_matching_gradient_vanishes_at_the_data_and_points_there_elsewhere():
    """With an exact fake score: descent moves mean and deviation towards the teacher's."""
    for mean, deviation in (DATA, (2.0, 0.5), (0.0, 0.5), (1.0, 0.8), (1.0, 0.3)):
        objective = PrestoS(
            Gaussian(*DATA),
            lambda cond: cond,
            PrestoSConfig(nu_1=0.0),
            feature_layer=0,
            width=8,
            generator=AffineGenerator(mean, deviation),
        )
        objective.fake_score.load_state_dict(Gaussian(mean, deviation).state_dict())
        objective.fake_score.requires_grad_(False)
        big = Batch(DATA[0] + DATA[1] * torch.randn(512, 1, 16, generator=rng(1)))
        objective.generator_loss(big, rng(2))["dm"].backward()
        slopes = objective.generator.mean.grad, objective.generator.log_deviation.grad
        errors = mean - DATA[0], deviation - DATA[1]
        for slope, error in zip(slopes, errors, strict=True):
            if (mean, deviation) == DATA:
                assert slope.item() == 0.0
            elif error:
                assert slope.item() * error > 0
