"""`accelerate`: a transformers Llama gives the same logits and tokens, and comes back as it was."""

from __future__ import annotations

import copy
import io

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import infiniop.torch  # noqa: E402
from infiniop import errors  # noqa: E402

LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64, "rope_theta": 10000.0,
}  # fmt: skip


def llama(dtype: torch.dtype = torch.float32, **changes: object):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=8, num_key_value_heads=2,
        head_dim=16, vocab_size=300, max_position_embeddings=256, **changes,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).to(dtype).eval()
    for parameter in model.parameters():
        parameter.data.mul_(6 if parameter.dim() > 1 else 1)
    return model


def prompt(batch: int = 2, length: int = 19) -> torch.Tensor:
    return torch.randint(3, 300, (batch, length), generator=torch.Generator().manual_seed(length))


def generate(model, ids: torch.Tensor, **options: object) -> torch.Tensor:
    return model.generate(ids, max_new_tokens=9, do_sample=False, eos_token_id=None, pad_token_id=0, **options)


@torch.no_grad()
@pytest.mark.parametrize("changes", [{}, {"rope_parameters": LLAMA3}, {"attention_bias": True, "mlp_bias": True}])
@pytest.mark.parametrize("dtype, worst", [(torch.float32, 2e-5), (torch.bfloat16, 0.03)], ids=str)
def test_logits(dtype, worst, changes):
    model, ids = llama(dtype, **changes), prompt()
    before = model(ids).logits.float()
    after = infiniop.torch.accelerate(model)(ids).logits.float()
    assert (before - after).abs().max() <= worst * before.abs().max()
    assert not torch.equal(before, after), "nothing has changed"


def test_every_module_is_ours_and_comes_back():
    model = llama()
    kinds, state = [type(m) for m in model.modules()], {n: p.data_ptr() for n, p in model.named_parameters()}
    assert infiniop.torch.accelerate(model) is infiniop.torch.accelerate(model) is model
    ours = {type(m).__name__ for m in model.modules() if type(m).__module__.startswith("infiniop")}
    assert ours == {"LlamaRMSNorm", "LlamaMLP", "LlamaRotaryEmbedding", "LlamaAttention", "LlamaLinear"}
    assert {n: p.data_ptr() for n, p in model.named_parameters()} == state
    assert model.config._attn_implementation == "infiniop"
    infiniop.torch.restore(infiniop.torch.restore(model))
    assert [type(m) for m in model.modules()] == kinds and model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("options", [{}, {"cache_implementation": "static"}, {"num_beams": 2}], ids=str)
def test_generate(options):
    model, ids = llama(), prompt()
    expected = generate(model, ids, **options)
    infiniop.torch.accelerate(model)
    assert torch.equal(generate(model, ids, **options), expected)
    padded = torch.ones_like(ids)
    padded[0, :7] = 0
    ours = generate(model, ids, attention_mask=padded, **options)
    assert torch.equal(ours, generate(infiniop.torch.restore(model), ids, attention_mask=padded, **options))


@torch.no_grad()
def test_a_prompt_in_pieces_on_either_cache():
    model = infiniop.torch.accelerate(llama())
    ids = prompt(1, 24)
    whole = model(ids).logits
    caches = transformers.DynamicCache(config=model.config), transformers.StaticCache(model.config, max_cache_len=40)
    for cache in caches:
        pieces = [model(part, past_key_values=cache, use_cache=True).logits for part in ids.split(7, 1)]
        torch.testing.assert_close(torch.cat(pieces, 1), whole, atol=2e-4, rtol=1e-4)


@torch.no_grad()
def test_attention_alone_through_its_name():
    model, ids = llama(), prompt()
    expected = model(ids).logits
    infiniop.torch.accelerate(llama())  # registers it
    model.set_attn_implementation("infiniop")
    torch.testing.assert_close(model(ids).logits, expected, atol=2e-4, rtol=1e-4)
    window = torch.ones(1, 1, 19, 19).tril().triu(-3).bool().expand(2, 1, 19, 19)
    ours = model(ids, attention_mask=window).logits
    model.set_attn_implementation("sdpa")
    torch.testing.assert_close(ours, model(ids, attention_mask=window).logits)


@torch.no_grad()
def test_a_copy_a_stored_model_and_one_graph():
    model, ids = infiniop.torch.accelerate(llama()), prompt()
    expected = model(ids).logits
    assert torch.equal(copy.deepcopy(model)(ids).logits, expected)
    stored = io.BytesIO()
    torch.save(model, stored)
    stored.seek(0)
    assert torch.equal(torch.load(stored, weights_only=False)(ids).logits, expected)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(ids, use_cache=False).logits, expected, atol=2e-4, rtol=1e-4)


def test_what_cannot_be_accelerated():
    with pytest.raises(TypeError, match="expected a Llama"):
        infiniop.torch.accelerate(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="silu"):
        infiniop.torch.accelerate(llama(hidden_act="gelu"))
    with pytest.raises(errors.BadParamError, match="no backward"):
        infiniop.torch.accelerate(llama())(prompt())
