"""Under `torch.compile(fullgraph=True)` and `torch.export`: values, mutation, and shapes that stay symbols."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch._dynamo.testing import CompileCounterWithBackend  # noqa: E402

import infiniop.torch  # noqa: E402

assert infiniop.torch
infini = torch.ops.infiniop


def attend(x, weight, slots, k_cache, v_cache, tables, lengths):
    """One layer's pieces, with torch's own operators between ours: `[ntok, 2, 16]`."""
    ntok = x.shape[0]
    normed = infini.rms_norm(x.reshape(ntok, 32), weight) + 1
    k, v = infini.linear(normed, torch.cat([weight.expand(32, 32)] * 2)).view(ntok, 2, 2, 16).unbind(1)
    infini.paged_caching(k_cache, v_cache, k, v, slots)
    out = infini.paged_attention(normed.view(ntok, 2, 16), k_cache, v_cache, tables, lengths, 0.25)
    best, index = infini.topk(out.reshape(ntok, 32), 3, 1)
    return infini.silu_and_mul(out * 2), best, index


def arguments(ntok: int) -> tuple[torch.Tensor, ...]:
    made = torch.Generator().manual_seed(ntok)
    caches = [torch.zeros(ntok, 2, 4, 16) for _ in range(2)]
    tables = torch.arange(ntok, dtype=torch.int32)[:, None]
    slots = torch.arange(ntok) * 4 + 1
    lengths = torch.full((ntok,), 2, dtype=torch.int32)
    x = torch.rand(ntok, 2, 16, generator=made)
    return x, torch.rand(32, generator=made), slots, *caches, tables, lengths


def agree(function, ntok: int) -> None:
    ours, eager = arguments(ntok), arguments(ntok)
    torch.testing.assert_close(function(*ours), attend(*eager))
    torch.testing.assert_close(ours[3:5], eager[3:5])  # the caches
    assert ours[3].any()


def test_compiled_as_one_graph_for_all_sizes():
    graphs = CompileCounterWithBackend("inductor")
    compiled = torch.compile(attend, fullgraph=True, dynamic=True, backend=graphs)
    for ntok in (3, 5, 8):
        agree(compiled, ntok)
    assert graphs.frame_count == 1


def test_every_operator_traces_with_static_shapes():
    agree(torch.compile(attend, fullgraph=True, dynamic=False, backend="aot_eager"), 4)


def test_exported_with_a_dynamic_axis():
    class Layer(torch.nn.Module):
        def forward(self, *args):
            return attend(*args)

    ntok = torch.export.Dim("ntok", min=2, max=64)
    rows = [0, 2, 3, 4, 5, 6]
    shapes = tuple({0: ntok} if i in rows else None for i in range(7))
    program = torch.export.export(Layer(), arguments(4), dynamic_shapes=(shapes,))
    names = {str(node.target) for node in program.graph.nodes if "infiniop" in str(node.target)}
    assert {"infiniop.paged_caching.default", "infiniop.rms_norm.default", "infiniop.topk.default"} <= names
    for size in (2, 7):
        agree(program.module(), size)
        agree(program.run_decompositions().module(), size)


def test_a_gradient_is_refused_while_tracing():
    compiled = torch.compile(lambda x: infini.relu(x), fullgraph=True, backend="eager")
    with pytest.raises(Exception, match="no backward"):
        compiled(torch.ones(3, requires_grad=True))
    with torch.no_grad():
        assert torch.equal(compiled(torch.ones(3, requires_grad=True)), torch.ones(3))


def test_an_attribute_that_is_a_symbol():
    def step(q, k_cache, v_cache, pos: int):
        return infini.attention(q, q, q, k_cache, v_cache, pos)

    compiled = torch.compile(step, fullgraph=True, dynamic=True, backend="aot_eager")
    mine, eager = ([torch.zeros(2, 8, 4), torch.zeros(2, 8, 4)] for _ in range(2))
    for pos in (0, 2, 5):
        q = torch.rand(2, 2, 4)
        torch.testing.assert_close(compiled(q, *mine, pos), step(q, *eager, pos))
    torch.testing.assert_close(mine, eager)
