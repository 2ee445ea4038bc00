"""Adapters: exact networks of other families become the exact denoiser; taps and dropped blocks
show and run what they say, for one call and one copy only."""

import copy
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from presto_models.adapters import DropBlocks, FeatureTap, from_eps, from_flow, from_v, table_time
from presto_models.edm import Precondition
from presto_models.guidance import guided_where_sound
from presto_models.layer_schedule import LayerSchedule, ScheduledDenoiser, kept_blocks
from presto_models.samplers import euler

MEAN, DEVIATION = 0.3, 0.5  # of the data
SIGMAS = torch.tensor([0.002, 0.01, 0.1, 0.5, 1.0, 3.0, 14.0, 80.0], dtype=torch.float64)
ALPHAS = torch.linspace(1e-5, 0.02, 1000, dtype=torch.float64).neg().add(1).cumprod(0)
SCALE = 2.0


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---------------------------------------------------------------------- other parametrisations


def clean_and_noise(z, signal, noise, mean, deviation):
    """E[x0 | z] and E[eps | z] of z = signal x0 + noise eps with Gaussian x0, per sample."""
    signal, noise = signal.view(-1, 1, 1), noise.view(-1, 1, 1)
    error = (z - signal * mean) / (signal**2 * deviation**2 + noise**2)
    return mean + signal * deviation**2 * error, noise * error


def table_levels(t):
    """The noise levels of fractional steps of the table, independently of `table_time`."""
    levels = ((1 - ALPHAS) / ALPHAS).sqrt().log()
    below = t.floor().long().clamp(max=len(levels) - 2)
    return (levels[below] + (t - below) * (levels[below + 1] - levels[below])).exp()


def vp(sigma):
    return 1 / (1 + sigma**2).sqrt(), sigma / (1 + sigma**2).sqrt()


def trig(t):
    return torch.cos(torch.pi * t / 2), torch.sin(torch.pi * t / 2)


def exact(path, target):
    """A network that knows the data: its input has the signal and noise of `path(t)`."""

    def net(z, t, cond):
        signal, noise = path(t)
        scaled = cond * MEAN, cond * DEVIATION
        x0, eps = clean_and_noise(z, signal, noise, *scaled)
        return target(x0, eps, signal.view(-1, 1, 1), noise.view(-1, 1, 1))

    return net


def predict_eps(x0, eps, signal, noise):
    return eps


def predict_v(x0, eps, signal, noise):
    return signal * eps - noise * x0


FAMILIES = {
    "eps with a table": lambda s: from_eps(
        exact(lambda t: vp(table_levels(t)), predict_eps), ALPHAS, scale=s
    ),
    "eps with a function": lambda s: from_eps(
        exact(lambda t: vp(t.exp()), predict_eps), torch.log, scale=s
    ),
    "v with a table": lambda s: from_v(
        exact(lambda t: vp(table_levels(t)), predict_v), ALPHAS, scale=s
    ),
    "v, Stable Audio's time": lambda s: from_v(exact(trig, predict_v), scale=s),
    "flow to noise": lambda s: from_flow(
        exact(lambda t: (1 - t / 1000, t / 1000), lambda x0, eps, *_: eps - x0),
        time_scale=1000,
        scale=s,
    ),
    "flow to data": lambda s: from_flow(
        exact(lambda t: (t, 1 - t), lambda x0, eps, *_: x0 - eps), clean_at=1, scale=s
    ),
}


@pytest.mark.parametrize("scale", [1.0, SCALE])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_exact_network_becomes_the_posterior_mean(family, scale):
    """On Gaussian data, also where the network's data have `scale` times the deviation of ours."""
    sigma = SIGMAS[1:-1] if "table" in family else SIGMAS  # the table spans 0.003 to 157
    eps = torch.randn(len(sigma), 2, 5, generator=rng(), dtype=torch.float64)
    x = MEAN + DEVIATION * eps.flip(0) + sigma.view(-1, 1, 1) * eps
    D_x = FAMILIES[family](scale)(x, sigma, scale)
    expected, _ = clean_and_noise(x, torch.ones_like(sigma), sigma, MEAN, DEVIATION)
    torch.testing.assert_close(D_x, expected, rtol=0, atol=1e-5)


def test_flow_steps_are_those_of_diffusers_scheduler():
    """Euler in (x, sigma) is Euler in (z, t), where z = (1 - t) x and t = sigma / (1 + sigma)."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    mix = nn.Conv1d(2, 2, 3, padding=1)

    def net(z, t, cond):
        return mix(z) * (t / 1000).cos().view(-1, 1, 1)

    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=[0.95, 0.7, 0.4, 0.1])
    noise = torch.randn(3, 2, 6)
    z = noise * 0.95  # of x = sigma noise
    D, t = from_flow(net, time_scale=1000), scheduler.sigmas[:-1]
    with torch.no_grad():
        steps = euler(D, noise, t / (1 - t))
        for step, time, after in zip(steps, scheduler.timesteps, scheduler.sigmas[1:], strict=True):
            z = scheduler.step(net(z, time.expand(3), None), time, z).prev_sample
            torch.testing.assert_close(step.x * (1 - after), z, rtol=1e-5, atol=1e-5)


def test_table_time_is_the_step_of_its_level_and_stays_at_the_ends():
    levels = ((1 - ALPHAS) / ALPHAS).sqrt()
    time = table_time(ALPHAS)
    torch.testing.assert_close(time(levels), torch.arange(1000, dtype=torch.float64))
    assert time(torch.tensor([0.0, 1e9])).tolist() == [0.0, 999.0]
    assert (time(SIGMAS).diff() > 0)[1:-1].all()


@pytest.mark.parametrize("table", [[0.9], [0.2, 0.9], [1.0, 0.9, 0.5]])
def test_a_table_that_does_not_fall_is_refused(table):
    with pytest.raises(ValueError, match="alphas_cumprod must fall"):
        from_eps(nn.Identity(), torch.tensor(table))


def test_wrong_options_of_families_are_refused():
    with pytest.raises(ValueError, match="scale must be positive, got 0"):
        from_v(nn.Identity(), scale=0)
    with pytest.raises(ValueError, match="clean_at must be 0 or 1, got 2"):
        from_flow(nn.Identity(), clean_at=2)


def test_the_result_is_float32_and_options_reach_the_network():
    told = {}

    def net(z, t, cond, **options):
        told.update(options)
        return z.bfloat16(), z.transpose(1, 2)

    sigma = torch.tensor([0.5, 2.0])
    D = from_flow(net)
    D_x, hidden = D(torch.randn(2, 1, 3), sigma, None, tap=3, sigma_to=sigma / 2)
    assert D_x.dtype == torch.float32 and hidden.shape == (2, 3, 1) and told["tap"] == 3
    torch.testing.assert_close(told["c_noise_to"], torch.tensor([0.2, 0.5]))


# ---------------------------------------------------------------------- a plain network


DEPTH = 5


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.calls = 0

    def forward(self, h, gain):
        self.calls += 1
        return h + gain * self.conv(h).tanh()


class Unconditional(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, time, cond):
        return self.net(x)


class Halve(nn.Module):
    def forward(self, h, gain):
        return h[..., ::2]


class Permute(nn.Module):
    def __init__(self, *order):
        super().__init__()
        self.order = order

    def forward(self, h):
        return h.permute(self.order)


class Net(nn.Module):
    """F(x, c_noise, cond) of images, by somebody who never heard of taps and budgets."""

    def __init__(self, width=6, depth=DEPTH):
        super().__init__()
        self.enter = nn.Conv2d(1, width, 3, padding=1)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.leave = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, x, c_noise, cond):
        h, gain = self.enter(x), (c_noise + cond).view(-1, 1, 1, 1)
        for block in self.blocks:
            h = block(h, gain)
        return self.leave(h)


X = torch.randn(4, 1, 4, 4, generator=rng(1))
SIGMA, COND = torch.tensor([0.1, 0.5, 2.0, 30.0]), torch.tensor([0.0, 1.0, 2.0, 3.0])
CALL = (X, SIGMA, COND)


def by_hand(denoiser, call, kept):
    """Output and hidden states after each of the kept blocks, as tokens."""
    x, sigma, cond = call
    states, net = [], denoiser.inner
    c_skip, c_out, c_in, c_noise = (c.view(-1, 1, 1, 1) for c in denoiser.scalings(sigma))
    hidden = net.enter(c_in * x)
    for i in kept:
        hidden = net.blocks[i](hidden, c_noise + cond.view(-1, 1, 1, 1))
        states.append(hidden.flatten(2).transpose(1, 2))
    return c_skip * x + c_out * net.leave(hidden), states


@pytest.fixture
def plain():
    torch.manual_seed(0)
    return Precondition(Net())


# ---------------------------------------------------------------------- taps


def test_a_tap_shows_what_the_named_module_puts_out(plain):
    tapped = FeatureTap(plain, ["inner.blocks.1", "inner.enter", "inner.blocks.3"])
    D_x, states = by_hand(plain, CALL, range(DEPTH))
    assert torch.equal(tapped(*CALL), plain(*CALL))
    shown, (three, one) = tapped(*CALL, tap=(2, 0))
    torch.testing.assert_close((shown, three, one), (D_x, states[3], states[1]))
    torch.testing.assert_close(tapped.features(*CALL, tap=(2, 0)), (states[3], states[1]))
    torch.testing.assert_close(tapped.features(*CALL, tap=0), states[1])


def test_features_run_nothing_beyond_the_last_tap(plain):
    tapped = FeatureTap(plain, ["inner.blocks.0", "inner.blocks.2"])
    tapped.features(*CALL, tap=(1, 0))
    assert [block.calls for block in plain.inner.blocks] == [1, 1, 1, 0, 0]
    tapped.features(*CALL, tap=0)
    assert [block.calls for block in plain.inner.blocks] == [2, 1, 1, 0, 0]


def test_channels_may_come_last(plain):
    """A module after which they do: its output is left as it is, other than flattened."""
    plain.inner.enter = nn.Sequential(plain.inner.enter, Permute(0, 2, 3, 1), Permute(0, 3, 1, 2))
    first = FeatureTap(plain, "inner.enter.0").features(*CALL, tap=0)
    last = FeatureTap(plain, "inner.enter.1", channels="last").features(*CALL, tap=0)
    assert torch.equal(first, last) and first.shape == (4, 16, 6)


def test_a_vector_is_one_token():
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(16, 6), nn.Linear(6, 16), nn.Unflatten(1, (1, 4, 4))
    )
    denoiser = Precondition(Unconditional(net))
    assert FeatureTap(denoiser, "inner.net.1").features(*CALL, tap=0).shape == (4, 1, 6)


def test_channels_elsewhere_are_refused(plain):
    with pytest.raises(ValueError, match='channels must be "first" or "last", got \'middle\''):
        FeatureTap(plain, "inner.enter", channels="middle").features(*CALL, tap=0)


@pytest.mark.parametrize("wrap", [FeatureTap, DropBlocks])
def test_a_path_that_does_not_exist_lists_those_that_do(plain, wrap):
    with pytest.raises(ValueError) as raised:
        wrap(plain, "inner.block")
    said = str(raised.value)
    assert "'inner.block': choose from inner.blocks" in said and "\n" not in said
    assert ("inner.enter" in said) == (wrap is FeatureTap)


def test_a_long_list_of_paths_is_cut_and_counted():
    with pytest.raises(ValueError, match=r"choose from body, .* and 21 more$"):
        FeatureTap(nn.ModuleDict({"body": nn.ModuleList(nn.Identity() for _ in range(40))}), "head")
    with pytest.raises(ValueError, match="'blocks': choose from none"):
        DropBlocks(nn.Linear(1, 1), "blocks")


def test_taps_that_do_not_exist_are_refused(plain):
    tapped = FeatureTap(plain, "inner.blocks.1")
    with pytest.raises(ValueError, match=r"tap 1 is none of 0..0: \('inner.blocks.1',\)"):
        tapped.features(*CALL, tap=(0, 1))
    with pytest.raises(ValueError, match="tap=-1 needs a denoiser that knows its output head"):
        tapped(*CALL, tap=-1)
    plain.inner.spare = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="tap 0: the pass did not come through its module"):
        FeatureTap(plain, "inner.spare").features(*CALL, tap=0)


# ---------------------------------------------------------------------- blocks


def test_threads_take_turns(plain):
    """One within a call, another that wants fewer blocks: both get theirs, and no block is lost."""
    dropping, inside = DropBlocks(plain, "inner.blocks"), threading.Event()
    alone = [dropping(*CALL, budget=budget) for budget in (4, 2)]

    def linger(*_):
        if not inside.is_set():
            inside.set()
            time.sleep(0.2)  # long enough for the other to come in, if it could

    plain.inner.enter.register_forward_hook(linger)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(dropping, *CALL, budget=4)
        inside.wait()
        second = pool.submit(dropping, *CALL, budget=2)
        together = [first.result(), second.result()]
    assert dropping.depth == DEPTH
    for a, b in zip(together, alone, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("drop", ["shifted", "tail"])
@pytest.mark.parametrize("budget", [1, 2, 4, DEPTH])
def test_a_budget_runs_the_kept_blocks_and_no_other(plain, drop, budget):
    dropping = DropBlocks(plain, "inner.blocks", drop=drop)
    assert dropping.depth == DEPTH
    kept = kept_blocks(budget, DEPTH, drop)
    D_x, hidden = dropping(*CALL, budget=budget, tap=-1)
    assert [block.calls for block in plain.inner.blocks] == [int(i in kept) for i in range(DEPTH)]
    expected, states = by_hand(plain, CALL, kept)
    torch.testing.assert_close((D_x, hidden), (expected, states[-1]))
    torch.testing.assert_close(dropping(*CALL, budget=budget, tap=kept[0])[1], states[0])
    assert dropping.depth == DEPTH


def test_the_full_budget_is_the_undropped_network_bit_for_bit(plain):
    dropping = DropBlocks(plain, "inner.blocks")
    for options in ({}, {"budget": DEPTH}, {"budget": torch.full((4,), DEPTH)}):
        assert torch.equal(dropping(*CALL, **options), plain(*CALL))


def test_budgets_may_differ_within_a_batch(plain):
    """Samples are grouped by budget and come back in order, taps and conditions with them."""
    tapped = FeatureTap(
        DropBlocks(plain, "inner.blocks"), ["net.inner.enter", "net.inner.blocks.0"]
    )
    budget = torch.tensor([4, 2, DEPTH, 2])
    D_x, hidden = tapped(*CALL, budget=budget, tap=(-1, 1))
    for i, count in enumerate(budget.tolist()):
        expected, states = by_hand(plain, [v[i : i + 1] for v in CALL], kept_blocks(count, DEPTH))
        torch.testing.assert_close(D_x[i : i + 1], expected)
        torch.testing.assert_close(hidden[0][i : i + 1], states[-1])
        torch.testing.assert_close(hidden[1][i : i + 1], states[0])


def test_features_of_blocks_come_from_the_full_network_and_end_there(plain):
    dropping = DropBlocks(plain, "inner.blocks")
    states = by_hand(plain, CALL, range(DEPTH))[1]
    before = [block.calls for block in plain.inner.blocks]
    torch.testing.assert_close(dropping.features(*CALL, tap=(1, 0)), (states[1], states[0]))
    ran = [block.calls - n for block, n in zip(plain.inner.blocks, before, strict=True)]
    assert ran == [1, 1, 0, 0, 0]
    torch.testing.assert_close(dropping.features(*CALL, tap=-1), states[-1])


def test_a_sequential_of_blocks_can_be_dropped():
    body = nn.Sequential(*(nn.Conv2d(1, 1, 3, padding=1) for _ in range(3)))
    short = DropBlocks(from_v(Unconditional(body)), "inner.net")
    long = from_v(Unconditional(nn.Sequential(body[0], body[2])))
    assert torch.equal(short(*CALL, budget=2), long(*CALL))


def test_wrong_budgets_taps_and_blocks_are_refused(plain):
    dropping = DropBlocks(plain, "inner.blocks")
    for budget in (0, DEPTH + 1, torch.tensor([1, 2, 3, DEPTH + 1])):
        with pytest.raises(ValueError, match=r"budget must be within 1..5 blocks, got (0|6)"):
            dropping(*CALL, budget=budget)
    with pytest.raises(ValueError, match=r"tap 1 is not among the blocks that run: \[0, 4\]"):
        dropping(*CALL, budget=2, tap=1)
    plain.inner.blocks[1] = Halve()
    with pytest.raises(ValueError, match=r"block 1 of 'inner.blocks' turns \(4, 6, 4, 4\) into "):
        dropping(*CALL, budget=3)
    assert torch.equal(
        dropping(*CALL, budget=2), by_hand(plain, CALL, [0, 4])[0]
    )  # all is restored


# ---------------------------------------------------------------------- copies and weights


def test_copies_share_nothing_with_their_original(plain):
    """An objective copies its teacher: the copy taps and drops its own modules."""
    tapped = FeatureTap(DropBlocks(plain, "inner.blocks"), "net.inner.enter")
    twin = copy.deepcopy(tapped)
    before = tapped(*CALL, budget=3, tap=(0, -1))
    with torch.no_grad():
        for weight in twin.parameters():
            weight.zero_()
    D_x, (hidden, _) = twin(*CALL, budget=3, tap=(0, -1))
    assert not hidden.any() and not torch.equal(D_x, before[0])
    torch.testing.assert_close(tapped(*CALL, budget=3, tap=(0, -1)), before, rtol=0, atol=0)


def test_nothing_stays_behind_a_call(plain):
    """Neither hooks nor a shortened list, even when the pass was ended or failed."""
    tapped = FeatureTap(DropBlocks(plain, "inner.blocks"), "net.inner.blocks.3")
    names = list(tapped.state_dict())
    tapped.features(*CALL, tap=0)
    tapped(*CALL, budget=2, tap=-1)
    with pytest.raises(RuntimeError):
        tapped(X.repeat(1, 2, 1, 1), SIGMA, COND, budget=2)
    assert list(tapped.state_dict()) == names
    assert not any(module._forward_hooks for module in tapped.modules())


def test_weights_are_those_of_the_network_under_a_prefix(plain):
    tapped = FeatureTap(DropBlocks(plain, "inner.blocks"), "net.inner.enter")
    weights = plain.state_dict()
    assert list(tapped.state_dict()) == [f"net.net.{name}" for name in weights]
    tapped.net.net.load_state_dict(weights)


def test_guidance_is_that_of_the_wrapped_denoiser(plain):
    def wrapped():
        return FeatureTap(DropBlocks(plain, "inner.blocks"), "net.inner.enter")

    def strong(D):
        return guided_where_sound(D, 4.0, lambda cond: -cond)(*CALL)

    assert torch.equal(strong(wrapped()), strong(plain))
    plain.guidance_interval, plain.guidance_scale = (0.0, 1.0), 0.3  # two of four noise levels
    scheduled = ScheduledDenoiser(wrapped(), LayerSchedule((), (DEPTH,)))
    for D in (wrapped(), scheduled):
        assert (D.guidance_interval, D.guidance_scale, D.depth) == ((0.0, 1.0), 0.3, DEPTH)
    careful = strong(wrapped())
    assert torch.equal(careful, strong(plain))
    assert torch.equal(careful[2:], plain(*CALL)[2:])
    assert not torch.equal(careful[:2], plain(*CALL)[:2])


def test_gradients_reach_the_blocks_that_ran(plain):
    D_x, hidden = DropBlocks(plain, "inner.blocks")(*CALL, budget=3, tap=-1)
    (D_x.sum() + hidden.sum()).backward()
    reached = [block.conv.weight.grad is not None for block in plain.inner.blocks]
    assert reached == [True, True, False, False, True]
