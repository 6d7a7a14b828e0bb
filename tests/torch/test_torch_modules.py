"""`infiniop.torch.nn` beside torch's own modules."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional as F  # noqa: E402

from infiniop.torch import functional, nn  # noqa: E402

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
close = torch.testing.assert_close


def random(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(len(shape))).to(dtype) - 0.5


@DTYPES
@pytest.mark.parametrize("shape", [(8,), (3, 8), (2, 3, 8), (2, 1, 3, 8), (0, 8)], ids=str)
def test_rms_norm(shape, dtype):
    norm = nn.RMSNorm(8, eps=1e-5, dtype=dtype)
    norm.weight.copy_(random(8, dtype=dtype))
    x, residual = random(*shape, dtype=dtype), random(*shape, dtype=dtype) + 1
    close(norm(x), F.rms_norm(x, (8,), norm.weight, 1e-5))
    y, total = norm(x, residual)
    close(total, x + residual)
    close(y, F.rms_norm(x + residual, (8,), norm.weight, 1e-5))


@DTYPES
def test_swiglu(dtype):
    both = random(2, 3, 16, dtype=dtype)
    gate, up = both.chunk(2, -1)
    close(nn.SwiGLU()(both), F.silu(gate) * up)
    close(nn.SwiGLU()(gate, up), F.silu(gate) * up)


@DTYPES
@pytest.mark.parametrize("bias", [True, False])
def test_linear(bias, dtype):
    theirs = torch.nn.Linear(24, 10, bias=bias, dtype=dtype).requires_grad_(False)
    ours = nn.Linear(24, 10, bias=bias, dtype=dtype)
    ours.load_state_dict(theirs.state_dict())
    packed = nn.PackedLinear(theirs.weight, theirs.bias)
    for shape in ((24,), (1, 24), (2, 3, 24), (0, 24)):
        x = random(*shape, dtype=dtype)
        close(ours(x), theirs(x))
        close(packed(x), theirs(x))
    close(ours(random(24, 3, dtype=dtype).t()), theirs(random(24, 3, dtype=dtype).t()))
    with pytest.raises(ValueError, match="format"):
        nn.PackedLinear(theirs.weight, format="int3")


def test_quantised_linear_is_near():
    weight, x = random(16, 64), random(3, 64)
    for form, bits in (("int8", 7), ("int4", 3)):
        packed = nn.PackedLinear(weight, format=form, group_size=32)
        close(packed(x), x @ weight.t(), atol=64 * 0.25 * 2.0**-bits / 4, rtol=0)
        assert packed.packed.numel() < weight.numel() * 4


@DTYPES
@pytest.mark.parametrize("interleaved", [False, True])
def test_rotary_embedding(interleaved, dtype):
    rotary = nn.RotaryEmbedding(8, 32, base=100.0, interleaved=interleaved, dtype=dtype)
    positions = torch.tensor([[0, 1, 31], [5, 2, 9]])
    x = random(2, 3, 4, 8, dtype=dtype)
    pairs = x.double().view(2, 3, 4, 4, 2) if interleaved else x.double().view(2, 3, 4, 2, 4).transpose(-1, -2)
    angles = positions[..., None, None] * 100.0 ** -(torch.arange(4) / 4)
    turned = torch.view_as_complex(pairs.contiguous()) * torch.polar(torch.ones_like(angles), angles)
    back = torch.view_as_real(turned)
    expected = (back if interleaved else back.transpose(-1, -2)).reshape(x.shape)
    tolerance = {"atol": 1e-2, "rtol": 1e-2} if dtype is torch.bfloat16 else {"atol": 1e-5, "rtol": 1e-5}
    close(rotary(x, positions).double(), expected.double(), **tolerance)
    close(rotary(x[0], positions[0]), rotary(x, positions)[0])


@pytest.mark.parametrize("index", [torch.int32, torch.int64], ids=str)
def test_paged_attention(index):
    """Two sequences, prefilled together and then decoded, against torch on whole sequences."""
    heads, kv_heads, size, block = 4, 2, 16, 4
    layer = nn.PagedAttention(heads, kv_heads, size, num_blocks=8, block_size=block)
    lengths = [5, 2]
    tables = torch.tensor([[3, 1], [6, 0]], dtype=index)
    q, k, v = random(9, heads, size), random(9, kv_heads, size), random(9, kv_heads, size, dtype=torch.float32) * 2

    def slot(sequence: int, i: int) -> int:
        return int(tables[sequence, i // block]) * block + i % block

    starts = torch.tensor([0, 5, 7], dtype=index)
    slots = torch.tensor([slot(s, i) for s, n in enumerate(lengths) for i in range(n)])
    out = layer(q[:7], k[:7], v[:7], slots, tables, torch.tensor(lengths, dtype=index), starts)
    last = layer(q[7:], k[7:], v[7:], torch.tensor([slot(0, 5), slot(1, 2)]), tables, torch.tensor([6, 3], dtype=index))
    for s, rows in enumerate(([0, 1, 2, 3, 4, 7], [5, 6, 8])):
        one = [t[rows].transpose(0, 1)[None] for t in (q, k, v)]
        expected = F.scaled_dot_product_attention(*one, is_causal=True, enable_gqa=True)[0].transpose(0, 1)
        got = torch.cat([out[starts[s] : starts[s + 1]], last[s : s + 1]])
        close(got, expected, atol=1e-5, rtol=1e-4)


def test_modules_compile_and_export_as_one_graph():
    block = torch.nn.Sequential(
        nn.RMSNorm(32), nn.Linear(32, 64, bias=False), nn.SwiGLU(), nn.PackedLinear(random(8, 32))
    )
    x = random(2, 5, 32)
    expected = block(x)
    close(torch.compile(block, fullgraph=True, backend="aot_eager")(x), expected)
    program = torch.export.export(block, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=8)},))
    close(program.module()(x), expected)
    close(program.module()(x.repeat(3, 1, 1)), expected.repeat(3, 1, 1))


def test_functional_takes_any_layout():
    x = random(32, 6).t()
    close(functional.rms_norm(x, torch.ones(32)), F.rms_norm(x, (32,), torch.ones(32), 1e-6))
