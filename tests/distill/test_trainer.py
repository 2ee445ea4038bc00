"""The training loop: exact resumption, moving averages, learning rates, and loud failure."""

import functools
import itertools
import math
from dataclasses import dataclass
from typing import Literal

import jaxtyping
import pytest
import torch
from torch import nn

from presto_distill.baselines.consistency import ConsistencyDistillation
from presto_distill.choices import check_choices
from presto_distill.objective import Batch, Turn, frozen, trainable
from presto_distill.objectives.denoising import DenoisingConfig
from presto_distill.objectives.presto_l import PrestoL, PrestoLConfig
from presto_distill.objectives.presto_s import PrestoS
from presto_distill.trainer import Diverged, TrainConfig, Trainer
from presto_models.conditioning import null_condition
from presto_models.layer_schedule import LayerSchedule, presto_schedule


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Line(nn.Module):
    """One weight and a buffer that counts calls."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.0))
        self.register_buffer("calls", torch.tensor(0))


class TwoPlayers:
    """Each player walks towards 1; `follower` moves twice per round. Records what it was given."""

    def __init__(self):
        self.players = {"leader": Line(), "follower": Line()}
        self.turns = [
            *2 * [Turn("follower", self._loss("follower"))],
            Turn("leader", self._loss("leader")),
        ]
        self.drawn: list[float] = []
        self.seen: list[float] = []
        self.trained: list[dict[str, bool]] = []
        self.scale, self.offset = 1.0, 0.0

    def _loss(self, name):
        def loss(batch, rng):
            self.drawn.append(torch.rand((), generator=rng).item())
            self.seen.append(batch.x.item())
            self.trained.append({n: p.weight.requires_grad for n, p in self.players.items()})
            player = self.players[name]
            player.calls += 1
            error = self.scale * (player.weight - 1)
            return {name: error**2, "offset": error * 0 + self.offset}

        return loss


def numbers(start: int):
    return (Batch(torch.tensor([float(i)])) for i in itertools.count(start))


def train(objective, steps: int, **options) -> tuple[Trainer, list]:
    trainer = Trainer(objective, TrainConfig(steps=steps, **options))
    return trainer, list(trainer.run(numbers))


# --- exact resumption ----------------------------------------------------------------------------


@pytest.fixture
def presto_s(tiny_denoiser):
    """A trainer of Presto-S on a tiny transformer. Only the teacher is the same every time."""

    def build(steps: int, seed: int = 0, precision: str = "float32") -> Trainer:
        torch.manual_seed(seed)  # of the discriminator head
        objective = PrestoS(tiny_denoiser(), null_condition, feature_layer=1, width=16)
        return Trainer(objective, TrainConfig(steps, lr=1e-3, warmup=3, precision=precision))

    return build


@pytest.fixture
def stream(tiny_condition):
    def batches(start: int):
        for i in itertools.count(start):
            x = torch.randn(3, 4, 16, generator=rng(1000 + i))
            yield Batch(x, tiny_condition(3, seed=i))

    return batches


def flat(state) -> dict[str, torch.Tensor]:
    """Every tensor of a nested state, by its path."""
    leaves, _ = torch.utils._pytree.tree_flatten_with_path(state)
    return {str(path): leaf for path, leaf in leaves if isinstance(leaf, torch.Tensor)}


def test_two_steps_equal_one_step_save_load_and_one_more_bit_for_bit(presto_s, stream, tmp_path):
    from presto_distill import checkpoint

    straight = presto_s(steps=4)
    straight_records = list(straight.run(stream))

    first = presto_s(steps=2)
    records = list(first.run(stream))
    checkpoint.save(first, tmp_path / "state.pt")
    second = presto_s(steps=4, seed=1)  # another head, which the checkpoint replaces
    checkpoint.load(second, tmp_path / "state.pt")
    assert second.step == 2
    records += second.run(stream)

    assert [(r.step, r.losses, r.grad_norms) for r in records] == [
        (r.step, r.losses, r.grad_norms) for r in straight_records
    ]
    ours, theirs = flat(second.state_dict()), flat(straight.state_dict())
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert {name.split("'")[1] for name in ours} == {"players", "averages", "optimizers"}


def test_randomness_and_data_are_functions_of_the_position():
    """Every turn draws anew; stopping after any step changes neither draws nor data."""
    straight = TwoPlayers()
    train(straight, 4)
    assert straight.seen == [float(i) for i in range(12)]
    assert len(set(straight.drawn)) == 12
    resumed = TwoPlayers()
    first, _ = train(resumed, 1)
    second = Trainer(resumed, TrainConfig(steps=4))
    second.load_state_dict(first.state_dict())
    list(second.run(numbers))
    assert (resumed.drawn, resumed.seen) == (straight.drawn, straight.seen)
    other = TwoPlayers()
    train(other, 1, seed=1)
    assert not set(other.drawn) & set(straight.drawn)


def test_a_changed_config_is_refused_and_more_steps_are_not():
    trainer, _ = train(TwoPlayers(), 1)
    longer = Trainer(TwoPlayers(), TrainConfig(steps=9))
    longer.load_state_dict(trainer.state_dict())
    assert longer.step == 1
    other = Trainer(TwoPlayers(), TrainConfig(steps=1, lr=3e-4))
    with pytest.raises(ValueError, match=r"another config: .*lr.*0\.0001 -> 0\.0003"):
        other.load_state_dict(trainer.state_dict())
    assert other.step == 0


def test_a_checkpoint_of_another_objective_is_refused_whatever_its_fields_are_called():
    @dataclass(frozen=True)
    class Config:
        lr: float = 5.0
        steps: int = 7

    def objective(**changes):
        built = TwoPlayers()
        built.cfg = Config(**changes)
        return built

    state = Trainer(objective(), TrainConfig(steps=1)).state_dict()
    Trainer(objective(), TrainConfig(steps=9)).load_state_dict(state)
    for changes, said in (({"lr": 1.0}, "objective.lr"), ({"steps": 8}, "objective.steps")):
        with pytest.raises(ValueError, match=said):
            Trainer(objective(**changes), TrainConfig(steps=1)).load_state_dict(state)
    with pytest.raises(ValueError, match=r"objective.lr': '5\.0 -> None'"):
        Trainer(TwoPlayers(), TrainConfig(steps=1)).load_state_dict(state)


def test_an_own_law_is_no_other_law_after_a_restart():
    class Law:
        pass

    @dataclass(frozen=True)
    class Config:
        law: Law

    def trainer() -> Trainer:
        objective = TwoPlayers()
        objective.cfg = Config(Law())
        return Trainer(objective, TrainConfig(steps=1))

    trainer().load_state_dict(trainer().state_dict())


def test_a_checkpoint_of_another_schedule_or_tap_is_refused(tiny_denoiser):
    def layers(*budgets: int) -> Trainer:
        schedule = LayerSchedule((1.0,), budgets)
        objective = PrestoL(tiny_denoiser(), null_condition, schedule, depth=4)
        return Trainer(objective, TrainConfig(steps=1))

    def steps(tap: int) -> Trainer:
        objective = PrestoS(tiny_denoiser(), null_condition, feature_layer=tap, width=16)
        return Trainer(objective, TrainConfig(steps=1))

    layers(4, 2).load_state_dict(layers(4, 2).state_dict())
    with pytest.raises(ValueError, match=r"another config: .*objective\.schedule"):
        layers(3, 1).load_state_dict(layers(4, 2).state_dict())
    with pytest.raises(ValueError, match=r"another config: .*objective\.taps"):
        steps(3).load_state_dict(steps(0).state_dict())


def test_under_a_cosine_more_steps_are_another_run():
    def trainer(steps: int) -> Trainer:
        return Trainer(TwoPlayers(), TrainConfig(steps=steps, decay="cosine"))

    with pytest.raises(ValueError, match=r"another config: .*steps.*1 -> 9"):
        trainer(9).load_state_dict(trainer(1).state_dict())


def test_dropout_of_a_network_goes_on_as_if_nothing_had_stopped():
    class Dropped(TwoPlayers):
        def _loss(self, name):
            loss = super()._loss(name)

            def dropped(batch, rng):
                terms = loss(batch, rng)
                return {
                    **terms,
                    "mask": terms["offset"] + torch.dropout(torch.ones(64), 0.5, True).sum(),
                }

            return dropped

    def masks(trainer: Trainer) -> list[float]:
        return [record.losses["mask"] for record in trainer.run(numbers)]

    first = Trainer(Dropped(), TrainConfig(steps=3))
    begun = masks(first)
    resumed = Trainer(Dropped(), TrainConfig(steps=6))
    resumed.load_state_dict(first.state_dict())
    torch.manual_seed(5)
    untouched = torch.get_rng_state()
    assert begun + masks(resumed) == masks(Trainer(Dropped(), TrainConfig(steps=6)))
    assert len(set(begun)) > 1 and torch.equal(torch.get_rng_state(), untouched)


def test_what_networks_draw_is_not_what_losses_draw():
    """Noise of a network's own is another one than the noise that it is to remove."""
    objective, own = TwoPlayers(), []

    def loss(batch, rng):
        own.append(torch.equal(torch.randn(8), torch.randn(8, generator=rng)))
        return {"leader": (objective.players["leader"].weight - 1) ** 2}

    objective.turns = [Turn("leader", loss)]
    train(objective, 2)
    assert own == [False, False]


# --- turns ---------------------------------------------------------------------------------------


def test_only_the_turns_player_may_learn_and_records_are_named():
    objective = TwoPlayers()
    trainer, records = train(objective, 1, lr=0.1)
    follower, leader = {"leader": False, "follower": True}, {"leader": True, "follower": False}
    assert objective.trained == [follower, follower, leader]
    (record,) = records
    assert record.step == trainer.step == 1
    assert record.losses.keys() == {"leader", "follower", "offset"}
    assert record.losses["leader"] == 1.0
    assert record.losses["follower"] == pytest.approx((1 + 0.9**2) / 2)  # the mean of both turns
    assert record.grad_norms == {"leader": 2.0, "follower": pytest.approx(1.8)}


def test_what_came_frozen_stays_frozen_and_a_frozen_whole_learns():
    """In two trainers, as the second has to know it too."""
    objective = TwoPlayers()
    for name, player in objective.players.items():
        player.encoder = nn.Parameter(torch.tensor(2.0), requires_grad=False)
        player.weight.requires_grad_(name == "follower")
    losses = [turn.loss for turn in objective.turns]
    objective.turns = [
        Turn(turn.player, lambda batch, rng, turn=turn, loss=loss: {
            **loss(batch, rng), "encoder": objective.players[turn.player].encoder ** 2})
        for turn, loss in zip(objective.turns, losses, strict=True)
    ]  # fmt: skip
    for _ in range(2):
        train(objective, 1, lr=0.1)
    assert objective.players["follower"].encoder.item() == 2
    assert objective.players["follower"].weight.item() > 0.1
    assert objective.players["leader"].encoder.item() < 2


def test_copies_keep_what_was_frozen_and_play_their_part():
    net = nn.Sequential(nn.Linear(2, 2), nn.Dropout(), nn.Linear(2, 2)).eval()
    net[0].requires_grad_(False)
    player, teacher = trainable(net), frozen(net.train())
    assert [p.requires_grad for p in player.parameters()] == 2 * [False] + 2 * [True]
    assert all(p.requires_grad for p in trainable(teacher).parameters())
    assert not any(p.requires_grad for p in teacher.parameters())
    assert player[1].training and not teacher[1].training


@pytest.mark.parametrize("kind", ["steps", "layers", "consistency"])
def test_players_that_start_as_the_teacher_keep_what_it_froze(tiny_denoiser, kind):
    teacher = tiny_denoiser()
    teacher.inner.blocks[0].requires_grad_(False)
    if kind == "steps":
        objective = PrestoS(teacher, null_condition, feature_layer=1, width=16)
        networks = [objective.generator, objective.fake_score]
    elif kind == "layers":
        networks = [PrestoL(teacher, null_condition, presto_schedule(4), depth=4).student]
    else:
        networks = [ConsistencyDistillation(teacher, null_condition).student.denoiser]
    for net in networks:
        learn = [any(p.requires_grad for p in block.parameters()) for block in net.inner.blocks]
        assert learn == [False, True, True, True]


def test_adam_moves_by_the_players_own_learning_rate():
    """Adam's first step is the learning rate itself, whatever the gradient."""
    objective = TwoPlayers()
    train(objective, 1, lr={"leader": 0.25, "follower": 0.125})
    assert objective.players["leader"].weight.item() == pytest.approx(0.25, rel=1e-5)
    assert objective.players["follower"].weight.item() == pytest.approx(0.25, rel=0.02)


def test_averages_move_on_their_own_players_turns_only():
    objective = TwoPlayers()
    objective.turns = objective.turns[:1]
    trainer = Trainer(objective, TrainConfig(steps=1, lr=0.5))
    nn.init.constant_(objective.players["leader"].weight, 3.0)  # an update would be seen
    list(trainer.run(numbers))
    assert trainer.averages["leader"].weight.item() == 0.0
    assert trainer.averages["leader"].calls.item() == 0
    average = trainer.averages["follower"]
    # At step 0 the decay is 1/10: the start is nearly forgotten.
    assert average.weight.item() == pytest.approx(0.9 * 0.5, rel=1e-5)
    assert average.calls.item() == 1  # buffers are copied
    assert not average.weight.requires_grad


def test_averages_follow_their_recurrence_up_to_the_decay():
    objective, decay = TwoPlayers(), 0.4
    objective.turns = objective.turns[-1:]
    trainer = Trainer(objective, TrainConfig(steps=20, lr=0.1, ema_decay=decay))
    expected = 0.0
    for record in trainer.run(numbers):
        d = min(decay, record.step / (9 + record.step))
        expected = d * expected + (1 - d) * objective.players["leader"].weight.item()
        assert trainer.averages["leader"].weight.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (dict(), [1, 1, 1, 1]),
        (dict(warmup=2), [0.5, 1, 1, 1]),
        (dict(decay="cosine"), [(1 + math.cos(math.pi * i / 4)) / 2 for i in range(4)]),
        (dict(warmup=4), [0.25, 0.5, 0.75, 1]),
        (
            dict(warmup=2, decay="cosine"),
            [(1 + math.cos(math.pi * i / 4)) / 2 * (0.5 if i == 0 else 1) for i in range(4)],
        ),
    ],
)
def test_learning_rates_ramp_as_configured(options, expected):
    trainer = Trainer(TwoPlayers(), TrainConfig(steps=4, lr=0.01, **options))
    rates = [
        trainer.optimizers["leader"].param_groups[0]["lr"] / 0.01 for _ in trainer.run(numbers)
    ]
    assert rates == pytest.approx(expected)


def test_gradients_are_clipped_after_their_norm_is_recorded():
    objective = TwoPlayers()
    objective.scale = 10.0
    _, records = train(objective, 1, grad_clip=0.5)
    assert records[0].grad_norms["leader"] == 200.0
    assert objective.players["leader"].weight.grad.item() == pytest.approx(-0.5, rel=1e-4)
    _, records = train(objective, 1, grad_clip=math.inf)
    assert abs(objective.players["leader"].weight.grad.item()) == records[0].grad_norms["leader"]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_autocast_is_entered_exactly_when_asked_for(precision):
    objective, entered = TwoPlayers(), []
    plain = objective.turns[-1].loss

    def loss(batch, rng):
        entered.append((torch.is_autocast_enabled("cpu"), torch.is_grad_enabled()))
        return plain(batch, rng)

    objective.turns = [Turn("leader", loss)]
    train(objective, 1, precision=precision)
    assert entered == [(precision == "bfloat16", True)]
    assert objective.players["leader"].weight.dtype == torch.float32


def test_bfloat16_stays_close_to_float32(presto_s, stream):
    (exact,), (half,) = (
        presto_s(steps=1, precision=precision).run(stream) for precision in ("float32", "bfloat16")
    )
    assert exact.losses != half.losses
    assert half.losses["dsm"] == pytest.approx(exact.losses["dsm"], rel=0.05)
    # Losses themselves are summed in float32: a bfloat16 number has eight significant bits.
    assert all(term != torch.tensor(term).bfloat16().item() for term in half.losses.values())


# --- accumulation --------------------------------------------------------------------------------


def test_micro_batches_have_data_and_randomness_of_their_own():
    """Turn T consumes batches T M .. T M + M - 1; each draws anew."""
    objective = TwoPlayers()
    _, records = train(objective, 2, micro_batches=3)
    assert objective.seen == [float(i) for i in range(18)]
    assert len(set(objective.drawn)) == 18
    assert [record.step for record in records] == [1, 2]
    resumed = TwoPlayers()
    first, _ = train(resumed, 1, micro_batches=3)
    second = Trainer(resumed, TrainConfig(steps=2, micro_batches=3))
    second.load_state_dict(first.state_dict())
    list(second.run(numbers))
    assert (resumed.drawn, resumed.seen) == (objective.drawn, objective.seen)


def test_the_first_micro_batch_draws_what_a_single_batch_draws():
    one, three = TwoPlayers(), TwoPlayers()
    train(one, 2)
    train(three, 2, micro_batches=3)
    assert three.drawn[::3] == one.drawn


def test_gradients_are_the_mean_over_micro_batches():
    """The gradient of w x at micro-batches x = 0, 1, 2, 3 is their mean, and so is the report."""
    objective = TwoPlayers()
    weight = objective.players["leader"].weight
    nn.init.constant_(weight, 2.0)
    objective.turns = [Turn("leader", lambda batch, rng: {"product": weight * batch.x.mean()})]
    _, (record,) = train(objective, 1, micro_batches=4, grad_clip=math.inf)
    assert weight.grad.item() == record.grad_norms["leader"] == 1.5
    assert record.losses == {"product": 3.0}


def test_micro_batches_train_as_the_batch_they_make():
    parts = [Batch(torch.randn(2, 3, generator=rng(i))) for i in range(8)]
    wholes = [Batch(torch.cat([b.x for b in parts[i : i + 4]])) for i in (0, 4)]

    def trained(batches, micro):
        torch.manual_seed(0)
        net = nn.Linear(3, 3)
        objective = TwoPlayers()
        objective.players = {"net": net}
        objective.turns = [Turn("net", lambda b, rng: {"fit": (net(b.x) - b.x).square().mean()})]
        trainer = Trainer(objective, TrainConfig(2, micro_batches=micro))
        list(trainer.run(lambda start: iter(batches)))
        return net.state_dict()

    torch.testing.assert_close(trained(parts, 4), trained(wholes, 1))


# --- compilation ---------------------------------------------------------------------------------


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x):
        return self.linear(x).tanh()


class Stack(nn.Module):
    """Blocks in a list, of which a call runs as many as it says."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Layer() for _ in range(4))
        self.out = nn.Linear(3, 3)

    def forward(self, x, budget):
        for block in self.blocks[:budget]:
            x = block(x)
        return self.out(x)


def test_compiling_changes_neither_results_nor_names(monkeypatch):
    """Traced but not translated: that needs a C++ compiler, and is PyTorch's to test."""
    traced = []

    def backend(graph, inputs, options):
        traced.append(graph)
        return graph.forward

    compiler = functools.partialmethod(nn.Module.compile, backend=backend)
    monkeypatch.setattr(nn.Module, "compile", compiler)
    trainers = []
    for compiled in (False, True):
        torch.manual_seed(0)
        net, fixed = Stack(), Layer()
        objective = TwoPlayers()
        objective.players, objective.fixed = {"net": net}, {"fixed": fixed}

        def loss(batch, rng, net=net, fixed=fixed):
            x = torch.randn(2, 3, generator=rng)
            return {"fit": (net(x, 1 + int(batch.x) % 4) - fixed(x)).square().mean()}

        objective.turns = [Turn("net", loss)]
        trainer = Trainer(objective, TrainConfig(6, compile=compiled))
        trainers.append((trainer, list(trainer.run(numbers))))
        assert (net.blocks[0]._compiled_call_impl is not None) == compiled
        assert (fixed._compiled_call_impl is not None) == compiled
    (plain, expected), (compiled, records) = trainers
    # One where the input has a gradient and one where it has none; not one per block.
    assert len(traced) == 2
    for ours, theirs in zip(records, expected, strict=True):
        assert ours.losses == pytest.approx(theirs.losses, rel=1e-5)
    compiled.load_state_dict(plain.state_dict())  # a resumed run may compile


# --- failure -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (dict(offset=math.nan), "offset is nan at step 3"),
        (dict(scale=math.nan), "follower is nan at step 3"),
        (dict(scale=1e30), "follower is inf at step 3"),
        (dict(scale=1.5e19), "gradient of the follower is inf at step 3"),
    ],
)
def test_divergence_names_the_term_and_the_step_and_moves_nothing(break_it, reason):
    objective = TwoPlayers()
    trainer = Trainer(objective, TrainConfig(steps=5))
    records = trainer.run(numbers)
    next(records), next(records)
    before = [player.weight.item() for player in objective.players.values()]
    for name, value in break_it.items():
        setattr(objective, name, value)
    with pytest.raises(Diverged, match=reason):
        next(records)
    assert [player.weight.item() for player in objective.players.values()] == before
    assert trainer.step == 2


@pytest.mark.parametrize(
    ("value", "reason"),
    [(math.nan, "leader has NaN weights: weight"), (math.inf, "leader has infinite weights")],
)
@pytest.mark.parametrize("role", ["players", "fixed"])
def test_networks_that_are_not_finite_are_refused_before_training(value, reason, role):
    objective, broken = TwoPlayers(), Line()
    nn.init.constant_(broken.weight, value)
    setattr(objective, role, {**getattr(objective, role, {}), "leader": broken})
    with pytest.raises(ValueError, match=reason):
        Trainer(objective, TrainConfig(steps=1))


def test_players_in_half_precision_are_refused():
    objective = TwoPlayers()
    objective.players["leader"].bfloat16()
    with pytest.raises(ValueError, match=r"leader has weights in torch.bfloat16.*float\(\)"):
        Trainer(objective, TrainConfig(steps=1))


def test_a_word_that_is_no_choice_is_refused():
    @dataclass(frozen=True)
    class Config:
        decay: Literal["constant", "cosine"] = "constant"

    check_choices(Config("cosine"))
    with pytest.raises(ValueError, match="decay must be one of constant, cosine, got 'linear'"):
        check_choices(Config("linear"))


def test_a_player_without_a_learning_rate_is_refused():
    with pytest.raises(
        ValueError, match="lr has rates of leader; the players are leader, follower"
    ):
        Trainer(TwoPlayers(), TrainConfig(steps=1, lr={"leader": 1e-3}))
    with pytest.raises(ValueError, match="the players are leader, follower"):
        rates = {"leader": 1e-3, "follower": 1e-3, "folower": 1.0}
        Trainer(TwoPlayers(), TrainConfig(steps=1, lr=rates))


def test_a_stream_is_a_function_and_may_return_a_list():
    two = [Batch(torch.tensor([float(i)])) for i in range(6)]
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        for wrong in (two, iter(two)):
            with pytest.raises(ValueError, match="stream must be a function: first batch's number"):
                next(Trainer(TwoPlayers(), TrainConfig(steps=1)).run(wrong))
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
    objective = TwoPlayers()
    list(Trainer(objective, TrainConfig(steps=2)).run(lambda start: two[start:]))
    assert objective.seen == [0, 1, 2, 3, 4, 5]


def test_a_stream_that_ends_names_the_batch_it_lacks():
    empty = Trainer(TwoPlayers(), TrainConfig(steps=2)).run(lambda start: iter(()))
    with pytest.raises(ValueError, match="the data stream is empty"):
        next(empty)
    short = Trainer(TwoPlayers(), TrainConfig(steps=2)).run(
        lambda start: itertools.islice(numbers(start), 5)
    )
    next(short)
    with pytest.raises(ValueError, match="ended before batch 5"):
        next(short)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("micro_batches", 0, "at least 1, got 0"),
        ("warmup", -3, "at least 0 steps, got -3"),
        ("grad_clip", 0.0, "above 0"),
        ("grad_clip", -1.0, "above 0"),
        ("ema_decay", 1.0, "not 1, got 1"),
    ],
)
def test_numbers_out_of_range_are_no_configuration(name, value, reason):
    with pytest.raises(ValueError, match=f"{name} must be .*{reason}"):
        TrainConfig(steps=1, **{name: value})
    for config in (DenoisingConfig, PrestoLConfig):
        with pytest.raises(ValueError, match=r"condition_dropout must be within 0\.\.1, got 5"):
            config(condition_dropout=5.0)


def test_betas_may_be_integers():
    objective = TwoPlayers()
    trainer, _ = train(objective, 1, betas=(0, 0.99))
    assert trainer.optimizers["leader"].param_groups[0]["betas"] == (0.0, 0.99)
    other = Trainer(TwoPlayers(), TrainConfig(steps=1, betas=(0.0, 0.99)))
    other.load_state_dict(trainer.state_dict())  # the same configuration
    assert other.step == 1
