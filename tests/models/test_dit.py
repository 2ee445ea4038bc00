"""The transformer: sizes, budgets, features, conditions, precisions."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_map, tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from presto_models import sizes
from presto_models.blocks import Beats, Linear, normalised
from presto_models.conditioning import null_condition
from presto_models.denoiser import prepare
from presto_models.dit import DiT, DiTConfig
from presto_models.layer_schedule import LayerSchedule, ScheduledDenoiser, kept_blocks

BATCH, CHANNELS, FRAMES, DEPTH = 4, 4, 10, 4
SIGMA = torch.tensor([0.05, 0.4, 2.0, 30.0])
VARIANTS = [
    dict(),
    dict(text_attention=False),
    dict(text_width=0),
    dict(budget_embedding=False),
    dict(drop="tail"),
    dict(frame_rate=5.0),
]


@pytest.fixture
def x():
    return torch.randn(BATCH, CHANNELS, FRAMES, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def cond(tiny_condition):
    return tiny_condition(BATCH)


def calls_per_block(denoiser) -> list[int]:
    """Counts, from now on, how many samples each block sees."""
    counts = [0] * DEPTH
    for i, block in enumerate(denoiser.inner.blocks):

        def count(module, inputs, i=i):
            counts[i] += len(inputs[0])

        block.register_forward_pre_hook(count)
    return counts


def test_without_noise_the_denoiser_returns_its_input(tiny_denoiser, x, cond):
    assert torch.equal(tiny_denoiser()(x, torch.zeros(BATCH), cond), x)


def test_a_schedule_beyond_the_depth_is_refused(tiny_denoiser):
    with pytest.raises(ValueError, match=r"budgets must be within 1\.\.4 blocks, got 5"):
        tiny_denoiser(schedule=LayerSchedule((0.5,), (5, 2)))


def test_a_new_network_says_nothing(x):
    """Its output is zero, so the denoiser starts as c_skip x, the best linear guess."""
    F_x = DiT(DiTConfig(channels=CHANNELS, width=16, depth=2, heads=2))(x, SIGMA.log() / 4)
    assert not F_x.any()


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_full_budget_is_the_undropped_network_bit_for_bit(tiny_denoiser, x, cond, options):
    D = tiny_denoiser(**options)
    D_x = D(x, SIGMA, cond)
    assert torch.equal(D(x, SIGMA, cond, budget=DEPTH), D_x)
    assert torch.equal(D(x, SIGMA, cond, budget=torch.full((BATCH,), DEPTH)), D_x)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_budgets_within_a_batch_equal_single_runs(tiny_denoiser, x, cond, options):
    D = tiny_denoiser(**options)
    budget = torch.tensor([3, 1, 4, 1])
    together, hidden = D(x, SIGMA, cond, budget=budget, tap=-1)
    for i, blocks in enumerate(budget.tolist()):
        one = tree_map_only(Tensor, lambda leaf, i=i: leaf[i : i + 1], cond)
        alone = D(x[i : i + 1], SIGMA[i : i + 1], one, budget=blocks, tap=-1)
        torch.testing.assert_close(together[i : i + 1], alone[0], rtol=1e-4, atol=1e-4)
        rounding = 1e-5 * hidden.abs().max().item()
        torch.testing.assert_close(hidden[i : i + 1], alone[1], rtol=1e-4, atol=rounding)
    assert not torch.allclose(D(x, SIGMA, cond)[:2], together[:2], rtol=0.01)


def test_budgets_need_no_condition(tiny_denoiser, x):
    D, budget = tiny_denoiser(), torch.tensor([4, 2, 4, 2])
    expected = D(x, SIGMA, None, budget=2)
    assert torch.allclose(D(x, SIGMA, None, budget=budget)[1::2], expected[1::2], atol=1e-5)


@pytest.mark.parametrize("drop", ["shifted", "tail"])
def test_only_kept_blocks_run_and_learn(tiny_denoiser, x, cond, drop):
    D = tiny_denoiser(drop=drop)
    counts, budget = calls_per_block(D), torch.tensor([2, 2, 3, 2])
    D(x, SIGMA, cond, budget=budget).square().sum().backward()
    kept = [block for n in budget.tolist() for block in kept_blocks(n, DEPTH, drop)]
    assert counts == [kept.count(block) for block in range(DEPTH)]
    for i, block in enumerate(D.inner.blocks):
        learned = [p.grad is not None and bool(p.grad.any()) for p in block.parameters()]
        assert all(learned) if i in kept else not any(learned)


def test_the_network_is_told_its_budget(tiny_denoiser, x, cond):
    """With and without the embedding, the same blocks run; only the embedding tells them apart."""
    told, untold = (tiny_denoiser(budget_embedding=told) for told in (True, False))
    untold.load_state_dict(told.state_dict(), strict=False)
    with torch.no_grad():
        told.inner.budget.weight.zero_()
        told.inner.budget.weight[1] = 1.0
    same = [torch.equal(told(x, SIGMA, cond, budget=n), untold(x, SIGMA, cond, budget=n))
            for n in range(1, DEPTH + 1)]  # fmt: skip
    assert same == [True, False, True, True]


@pytest.mark.parametrize("tap", range(DEPTH))
def test_features_are_the_tapped_state_and_later_blocks_do_not_run(tiny_denoiser, x, cond, tap):
    D = tiny_denoiser()
    D_x, tapped = D(x, SIGMA, cond, tap=tap)
    assert torch.equal(D_x, D(x, SIGMA, cond))  # tapping changes nothing
    counts = calls_per_block(D)
    features = D.features(x, SIGMA, cond, tap=tap)
    assert torch.equal(features, tapped)
    assert features.shape == (BATCH, FRAMES, 16)
    assert counts == [BATCH] * (tap + 1) + [0] * (DEPTH - tap - 1)


@pytest.mark.parametrize("drop", ["shifted", "tail"])
def test_tap_minus_one_is_the_state_entering_the_head(tiny_denoiser, x, cond, drop):
    D, head = tiny_denoiser(drop=drop), []
    D.inner.norm.register_forward_pre_hook(lambda module, inputs: head.append(inputs[0]))
    for budget in range(1, DEPTH + 1):
        _, tapped = D(x, SIGMA, cond, budget=budget, tap=-1)
        assert torch.equal(tapped, head.pop())


def test_a_dropped_block_cannot_be_tapped(tiny_denoiser, x, cond):
    with pytest.raises(ValueError, match=r"tap 2 is not among the blocks that run: \[0, 3\]"):
        tiny_denoiser()(x, SIGMA, cond, budget=2, tap=2)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_nothing_stated_is_ignored(tiny_denoiser, x, cond, options):
    """The null condition, no condition, and masked-out values with tempo 0 are all the same."""
    D = tiny_denoiser(**options)
    null = null_condition(cond)
    D_null = D(x, SIGMA, null)
    torch.testing.assert_close(D(x, SIGMA, None), D_null, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        D(x, SIGMA, null._replace(text=cond.text * 9)), D_null, rtol=1e-4, atol=1e-5
    )
    assert not torch.allclose(D(x, SIGMA, cond)[0], D_null[0], rtol=0.01)


@pytest.mark.parametrize("text_attention", [True, False])
def test_padding_tokens_do_not_change_the_output(tiny_denoiser, x, cond, text_attention):
    D = tiny_denoiser(text_attention=text_attention)
    padded = cond._replace(
        text=torch.cat([cond.text, 50 * torch.ones(BATCH, 2, 8)], dim=1),
        mask=torch.cat([cond.mask, torch.zeros(BATCH, 2, dtype=torch.bool)], dim=1),
    )
    torch.testing.assert_close(D(x, SIGMA, padded), D(x, SIGMA, cond), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("text_attention", [True, False])
def test_every_condition_changes_the_output(tiny_denoiser, x, cond, text_attention):
    D = tiny_denoiser(text_attention=text_attention)
    D_x = D(x, SIGMA, cond)
    faster, louder = cond._replace(tempo=cond.tempo + 30), cond._replace(text=cond.text + 1)
    for other in (D(x, SIGMA, faster), D(x, SIGMA, louder), D(x, 1.5 * SIGMA, cond)):
        assert all(not torch.allclose(a, b, rtol=1e-3) for a, b in zip(other, D_x, strict=True))


def test_beats_are_counted_from_where_the_music_began():
    """At 60 bpm and 4 frames a second a beat is 4 frames; a crop keeps the grid of the whole."""
    grid = Beats(8, frame_rate=4.0)
    tempo = torch.tensor([60.0, 90.0, 0.0])
    whole = grid(48, tempo, None)
    later = grid(40, tempo, torch.tensor([2.0, 3.0, 0.0]))  # 8 frames on
    torch.testing.assert_close(whole[:, 8:], later, atol=1e-4, rtol=0)
    assert whole[:2].std() > 0.1 and not whole[2].any()  # an unknown tempo has no grid
    with torch.no_grad():  # leave the waves that return every beat
        grid.out.weight[:, : grid.WAVES.index(1.0)] = 0
        grid.out.weight[:, len(grid.WAVES) :][:, : grid.WAVES.index(1.0)] = 0
    beat = grid(48, tempo, None)[0]
    torch.testing.assert_close(beat[4:], beat[:-4], atol=1e-4, rtol=0)


@pytest.mark.parametrize("frame_rate", [0.0, 5.0])
def test_a_grid_is_only_for_networks_that_know_their_frame_rate(tiny_denoiser, x, cond, frame_rate):
    D = tiny_denoiser(frame_rate=frame_rate)
    moved = cond._replace(beat=torch.full((BATCH,), 0.5))
    assert torch.equal(D(x, SIGMA, cond), D(x, SIGMA, moved)) == (not frame_rate)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_normalisation_is_that_of_pytorch(x, dtype):
    x = x.to(dtype).requires_grad_()
    found, expected = normalised(x), F.rms_norm(x.float(), x.shape[-1:])
    near = {"atol": 1e-6, "rtol": 1e-5} if dtype is torch.float32 else {"atol": 0.02, "rtol": 0.01}
    torch.testing.assert_close(found.float(), expected, **near)
    pull = torch.arange(x.numel()).view(x.shape) / x.numel()
    (ours,), (theirs,) = (torch.autograd.grad((y * pull).sum(), x) for y in (found, expected))
    torch.testing.assert_close(ours, theirs, **near)


@pytest.mark.parametrize("shape", [(1, 689), (3, 217), (1, 696), (2, 8)])
def test_rows_multiplied_by_the_eight_are_the_same_rows(shape):
    layer = Linear(16, 12).to(torch.bfloat16)
    x, exact = torch.randn(*shape, 16).bfloat16(), copy.deepcopy(layer).double()
    layer(x).square().mean().backward()
    exact(x.double()).square().mean().backward()
    torch.testing.assert_close(layer(x).double(), exact(x.double()), rtol=0.02, atol=0.02)
    gradient, exact_gradient = layer.weight.grad.double(), exact.weight.grad
    assert (gradient - exact_gradient).norm() < 0.02 * exact_gradient.norm()


def test_samples_of_a_batch_do_not_see_each_other(tiny_denoiser, x, cond):
    D, changed = tiny_denoiser(), x.clone()
    changed[0] += 1
    before, after = D(x, SIGMA, cond), D(changed, SIGMA, cond)
    torch.testing.assert_close(after[1:], before[1:])
    assert not torch.allclose(after[0], before[0])


def test_a_schedule_in_the_config_sets_the_budget_unless_told_otherwise(tiny_denoiser, x, cond):
    schedule = LayerSchedule(edges=(1.0,), budgets=(4, 2))
    D, plain = tiny_denoiser(schedule=schedule), tiny_denoiser()
    budget = torch.tensor([4, 4, 2, 2])
    assert torch.equal(D(x, SIGMA, cond), plain(x, SIGMA, cond, budget=budget))
    assert torch.equal(D(x, SIGMA, cond, budget=3), plain(x, SIGMA, cond, budget=3))
    assert torch.equal(D.features(x, SIGMA, cond, tap=0), D(x, SIGMA, cond, tap=0)[1])
    assert not torch.allclose(
        D.features(x, SIGMA, cond, tap=0), plain.features(x, SIGMA, cond, tap=0)
    )
    assert D.depth == DEPTH


def test_heads_must_divide_the_width_into_pairs():
    with pytest.raises(ValueError, match="width 18 must be a multiple of 2 x 2"):
        DiT(DiTConfig(width=18, heads=2))


def test_several_taps_are_the_single_ones_side_by_side(tiny_denoiser, tiny_condition):
    D, x = tiny_denoiser(), torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(0))
    call = (x, torch.ones(2), tiny_condition(2))
    D_x, hidden = D(*call, tap=(0, 2, -1))
    assert torch.equal(D_x, D(*call))
    for one, tap in zip(hidden, (0, 2, 3), strict=True):
        assert torch.equal(one, D.features(*call, tap=tap))
    assert torch.equal(D.features(*call, tap=(2, 0))[1], hidden[0])
    mixed = D(*call, tap=(0, -1), budget=torch.tensor([4, 2]))[1]
    assert [state.shape for state in mixed] == [hidden[0].shape] * 2


def test_where_a_jump_ends_is_told_to_networks_built_for_it(tiny_denoiser, tiny_condition):
    x = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(0))
    call = (x, torch.ones(2), tiny_condition(2))
    D = tiny_denoiser(trajectory=True)
    near, far = (D(*call, sigma_to=torch.full((2,), s)) for s in (0.9, 0.01))
    assert not torch.allclose(near, far)
    each = D(*call, sigma_to=torch.tensor([0.9, 0.01]), budget=torch.tensor([4, 4]))
    torch.testing.assert_close(each, torch.stack([near[0], far[1]]))
    assert torch.equal(D.features(*call, tap=1), D(*call, tap=1, sigma_to=torch.zeros(2))[1])
    with pytest.raises(ValueError, match="trajectory=True"):
        tiny_denoiser()(*call, sigma_to=torch.ones(2))


@pytest.mark.parametrize("size", [sizes.micro, sizes.small, sizes.base, sizes.large])
def test_sizes_have_the_parameters_they_state(size):
    with torch.device("meta"):
        network = DiT(size())
    assert f"{sum(p.numel() for p in network.parameters()):,} parameters" in size.__doc__


@pytest.mark.parametrize("options", VARIANTS, ids=str)
@pytest.mark.parametrize("budget", [None, 2, torch.tensor([3, 1, 4, 1])], ids=str)
def test_a_prepared_condition_changes_no_bit(tiny_denoiser, x, cond, options, budget):
    D = tiny_denoiser(**options)
    ready = D.prepare(cond)
    assert torch.equal(D(x, SIGMA, ready, budget=budget), D(x, SIGMA, cond, budget=budget))
    assert torch.equal(D.features(x, SIGMA, ready, tap=1), D.features(x, SIGMA, cond, tap=1))
    assert D.prepare(ready) is ready
    assert D.prepare(None) is None


def test_a_prepared_condition_splits_and_joins_by_sample(tiny_denoiser, x, cond):
    D = tiny_denoiser()
    ready = D.prepare(cond)
    half = D(x[:2], SIGMA[:2], tree_map_only(Tensor, lambda leaf: leaf[:2], ready))
    torch.testing.assert_close(half, D(x, SIGMA, cond)[:2], rtol=1e-4, atol=1e-5)
    null = D.prepare(null_condition(cond))
    both = tree_map(lambda a, b: None if a is None else torch.cat([a, b]), ready, null)
    D_x = D(torch.cat([x, x]), SIGMA.repeat(2), both)
    expected = torch.cat([D(x, SIGMA, cond), D(x, SIGMA, null_condition(cond))])
    torch.testing.assert_close(D_x, expected, rtol=1e-4, atol=1e-5)


def test_preparing_saves_the_work_on_text(tiny_denoiser, x, cond):
    """2 (width x 2 width) products per text token and block, of which one is the learned token."""
    D = tiny_denoiser()

    def flops(cond) -> int:
        with FlopCounterMode(display=False) as counter:
            D(x, SIGMA, cond)
        return counter.get_total_flops()

    tokens = BATCH * (cond.text.shape[1] + 1)
    assert flops(cond) - flops(D.prepare(cond)) == DEPTH * tokens * 2 * 16 * 2 * 16


def test_wrappers_hand_prepare_on(tiny_denoiser, x, cond):
    D, schedule = tiny_denoiser(), LayerSchedule(edges=(1.0,), budgets=(4, 2))
    scheduled = ScheduledDenoiser(D, schedule)
    ready = prepare(scheduled, cond)
    assert torch.equal(ready.keys_values, D.inner.prepare(cond).keys_values)
    assert torch.equal(scheduled(x, SIGMA, ready), scheduled(x, SIGMA, cond))
    assert torch.equal(scheduled(x, SIGMA, cond, budget=3), D(x, SIGMA, cond, budget=3))
    assert prepare(lambda x, sigma, cond: x, cond) is cond


def test_checkpointing_runs_blocks_again_and_learns_the_same(tiny_denoiser, x, cond):
    def learn(checkpointing: bool):
        D = tiny_denoiser(checkpointing=checkpointing)
        counts = calls_per_block(D)
        D(x, SIGMA, cond, budget=torch.tensor([3, 1, 4, 1])).square().sum().backward()
        return counts, [p.grad for p in D.parameters()]

    (once, plain), (twice, checkpointed) = learn(False), learn(True)
    assert twice == [2 * n for n in once]
    for a, b in zip(plain, checkpointed, strict=True):
        assert (a is None and b is None) or torch.equal(a, b)


@pytest.mark.parametrize(("dtype", "near"), [(torch.bfloat16, 0.1), (torch.float16, 0.02)], ids=str)
def test_half_precision_weights_give_float32_close_to_the_full_ones(
    tiny_denoiser, x, cond, dtype, near
):
    D = tiny_denoiser()
    with torch.no_grad():
        for weight in D.parameters():  # of the size that training leaves them at
            weight.mul_(0.5)
        wide = D(x, SIGMA, cond)
        half = copy.deepcopy(D).to(dtype)
        narrow = half(x, SIGMA, half.prepare(cond))
        of_half = half(x.to(dtype), SIGMA, cond, budget=2)
    assert narrow.dtype == of_half.dtype == torch.float32
    assert (narrow - wide).norm() < near * (wide - x).norm()


def test_half_precision_keeps_the_frequencies_of_the_noise_level(tiny_denoiser):
    """At 64 turns per unit of c_noise a rounded frequency would tell another noise level."""
    noise = tiny_denoiser().inner.noise
    c_noise = torch.linspace(-1.5, 1.1, 9)
    waves = []
    noise.out.register_forward_pre_hook(lambda module, inputs: waves.append(inputs[0].float()))
    noise(c_noise)
    noise.to(torch.bfloat16)(c_noise)
    torch.testing.assert_close(waves[0], waves[1], rtol=0, atol=2**-7)
