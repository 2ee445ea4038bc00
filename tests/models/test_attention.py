"""The attention function, which kernel it picks, and rotary positions."""

import sys
import types

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from presto_models import attention as module
from presto_models.attention import attention, rotary_table, rotate

N, E = 5, 8


@pytest.fixture
def qkv():
    return torch.randn(3, 2, 2, N, E, generator=torch.Generator().manual_seed(0))


class OnCuda(torch.Tensor):
    """A tensor that says it is on a GPU."""

    is_cuda, is_cpu = True, False

    @property
    def device(self):
        return torch.device("cuda", 0)


@pytest.fixture
def installed(monkeypatch):
    """Puts fake flash-attn packages in place, which note their calls and then do the real thing."""
    calls = []

    def install(*names: str, capability: tuple[int, int] = (9, 0)) -> list[str]:
        def kernel(name):
            def flash_attn_func(q, k, v):
                calls.append(name)
                q, k, v = (x.as_subclass(torch.Tensor).transpose(1, 2) for x in (q, k, v))
                out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
                return (out, None) if name == "flash_attn.cute" else out

            return flash_attn_func

        for name in ("flash_attn", "flash_attn.cute"):
            fake = types.ModuleType(name)
            fake.__path__ = []
            if name in names:
                fake.flash_attn_func = kernel(name)
            monkeypatch.setitem(sys.modules, name, fake)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        module.flash_attention.cache_clear()
        return calls

    yield install
    module.flash_attention.cache_clear()


def test_attention_is_softmax_over_the_keys_that_are_there(qkv):
    q, k, v = qkv
    mask = torch.tensor([[True, True, False, True, False], [False, True, True, True, True]])
    logits = q @ k.transpose(-1, -2) / 8**0.5
    torch.testing.assert_close(attention(q, k, v), logits.softmax(-1) @ v)
    masked = logits.masked_fill(~mask[:, None, None], -torch.inf).softmax(-1) @ v
    torch.testing.assert_close(attention(q, k, v, mask), masked)


def test_rotation_keeps_lengths_and_makes_products_relative():
    """<R_m q, R_n k> depends on m - n only (Su et al. 2021)."""
    q, k = torch.randn(2, 1, 1, 1, 8, generator=torch.Generator().manual_seed(0)).expand(
        2, 1, 1, 12, 8
    )
    q, k = (rotate(part, rotary_table(12, 8)) for part in (q, k))
    torch.testing.assert_close(q.norm(dim=-1), q.norm(dim=-1)[..., :1].expand(1, 1, 12))
    products = (q @ k.transpose(-1, -2))[0, 0]
    for shift in range(-5, 6):
        diagonal = products.diagonal(shift)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal))
    assert products[0].std() > 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_cpu_tensors_never_go_to_flash_attn(installed, qkv, dtype):
    calls = installed("flash_attn", "flash_attn.cute")
    q, k, v = qkv.to(dtype)
    expected = F.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(attention(q, k, v), expected, rtol=0, atol=2e-2)
    assert calls == []


@pytest.fixture(params=[True, False], ids=["multiplies", "emulates"])
def multiplies_bfloat16(request, monkeypatch):
    monkeypatch.setattr(module, "CPU_MULTIPLIES_BFLOAT16", request.param)
    return request.param


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_on_a_cpu_is_close_to_full_and_keeps_its_type(
    qkv, dtype, multiplies_bfloat16
):
    narrow = [x.to(dtype) for x in qkv]
    mask = torch.tensor([[True, True, False, True, False], [False, True, True, True, True]])
    for seen in (None, mask):
        learning = [x.clone().requires_grad_() for x in narrow]
        exact = [x.float().requires_grad_() for x in narrow]
        out, full = attention(*learning, seen), attention(*exact, seen)
        torch.testing.assert_close(attention(*narrow, seen), full.to(dtype), rtol=0, atol=2e-2)
        if dtype == torch.float16 or not multiplies_bfloat16:
            assert torch.equal(out, full.to(dtype))  # no rounding on the way
        pairs = zip(
            torch.autograd.grad(out.float().square().sum(), learning),
            torch.autograd.grad(full.square().sum(), exact),
            strict=True,
        )
        assert all((a.float() - b).norm() < 0.02 * b.norm() for a, b in pairs)
        with torch.autocast("cpu", dtype):
            assert attention(*learning, seen).dtype == dtype
            with torch.no_grad():
                assert attention(*qkv, seen).dtype == dtype


def test_products_in_bfloat16_are_for_few_scores_and_for_sizes_that_are_known(qkv, monkeypatch):
    monkeypatch.setattr(module, "CPU_MULTIPLIES_BFLOAT16", True)
    q, k, v = qkv.bfloat16()
    sdpa = F.scaled_dot_product_attention(q, k, v)
    assert not torch.equal(attention(q, k, v), sdpa)
    n = torch.export.Dim("n", min=2, max=100_000)
    network = Attention()
    program = torch.export.export(network, (q, k, v), dynamic_shapes=({2: n},) * 3)
    assert torch.equal(program.module()(q, k, v), sdpa)
    monkeypatch.setattr(module, "FEW_SCORES", 2 * 2 * 5 * 5 - 1)
    assert torch.equal(attention(q, k, v), sdpa)


class Attention(torch.nn.Module):
    def forward(self, q, k, v):
        return attention(q, k, v)


@pytest.mark.parametrize(
    ("names", "capability", "picked"),
    [
        (["flash_attn"], (8, 0), ["flash_attn"]),
        (["flash_attn"], (9, 0), ["flash_attn"]),
        (["flash_attn", "flash_attn.cute"], (9, 0), ["flash_attn.cute"]),
        (["flash_attn.cute"], (10, 0), ["flash_attn.cute"]),
        (["flash_attn", "flash_attn.cute"], (8, 0), ["flash_attn"]),
        (["flash_attn.cute"], (8, 0), []),
        ([], (9, 0), []),
    ],
    ids=str,
)
def test_half_precision_on_cuda_goes_to_the_flash_attn_there_is(
    installed, qkv, names, capability, picked
):
    calls = installed(*names, capability=capability)
    q, k, v = qkv.half()
    out = attention(*(x.as_subclass(OnCuda) for x in (q, k, v))).as_subclass(torch.Tensor)
    assert calls == picked
    torch.testing.assert_close(out, F.scaled_dot_product_attention(q, k, v))


def test_a_mask_or_full_precision_on_cuda_goes_to_sdpa(installed, qkv):
    calls = installed("flash_attn", "flash_attn.cute")
    mask = torch.tensor([[True] * 3 + [False] * 2, [True] * 5])
    for tensors, kept in ((qkv, None), (qkv.half(), mask)):
        q, k, v = tensors
        out = attention(*(x.as_subclass(OnCuda) for x in (q, k, v)), kept)
        seen = None if kept is None else kept[:, None, None]
        expected = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        torch.testing.assert_close(out.as_subclass(torch.Tensor), expected)
    assert calls == []


def test_rotary_tables_are_kept_per_length_width_and_precision():
    table = rotary_table(7, E)
    assert rotary_table(7, E) is table
    for other in (rotary_table(8, E), rotary_table(7, 4), rotary_table(7, E, dtype=torch.half)):
        assert other is not table
    with FakeTensorMode():  # a stand-in gets its own and leaves none behind
        assert type(rotary_table(6, E)) is not torch.Tensor
    assert type(rotary_table(6, E)) is torch.Tensor


def test_a_rotary_table_made_while_sampling_serves_training():
    x = torch.randn(1, 11, E, requires_grad=True)
    with torch.inference_mode():
        rotate(x, rotary_table(11, E))
    rotate(x, rotary_table(11, E)).square().sum().backward()
    torch.testing.assert_close(x.grad, 2 * x.detach())  # a rotation keeps the norm
