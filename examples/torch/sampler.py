"""A custom sampler in transformers' generate loop: infiniop's `sample` draws every token.

transformers lets a caller replace its decoding loop. Ours runs an accelerated Llama and draws with the operator, whose
random numbers depend on seed and position alone: a request gets the same tokens in any batch.
"""

import functools

import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

import infiniop.torch


def draw(logits: torch.Tensor, seeds: torch.Tensor, position: int) -> torch.Tensor:
    """One token for each row of `[batch, vocab]`: temperature 0.8, top-k 40, top-p 0.95."""
    batch = logits.shape[0]

    def each(value: float, dtype: torch.dtype) -> torch.Tensor:
        return torch.full((batch,), value, dtype=dtype)

    return torch.ops.infiniop.sample(
        logits, each(0.8, torch.float32), each(40, torch.int32), each(0.95, torch.float32), each(0.0, torch.float32),
        seeds, each(position, torch.int64),
    )  # fmt: skip


def loop(model, input_ids, generation_config=None, *, seeds: torch.Tensor, **_):
    """A decoding loop as `generate(custom_generate=…)` calls it. `seeds`: one for each row."""
    cache, row = DynamicCache(config=model.config), input_ids
    for position in range(generation_config.max_length - input_ids.shape[1]):
        logits = model(row, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
        row = draw(logits, seeds, position)[:, None]
        input_ids = torch.cat([input_ids, row], 1)
    return input_ids


def main() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=1000,
    )  # fmt: skip
    model = infiniop.torch.accelerate(LlamaForCausalLM(config).eval())
    prompt = torch.tensor([[1, 20, 300]])

    def generate(ids: torch.Tensor, seeds: list[int]) -> torch.Tensor:
        sampler = functools.partial(loop, seeds=torch.tensor(seeds))
        return model.generate(ids, custom_generate=sampler, max_new_tokens=8, eos_token_id=None, pad_token_id=0)

    alone, batch = generate(prompt, [7]), generate(prompt.expand(3, 3), [5, 7, 9])
    print(f"drawn: {alone.shape[1] - prompt.shape[1]} tokens")
    print(f"the same in a batch: {torch.equal(alone[0], batch[1])}")
    print(f"other seeds, other tokens: {not torch.equal(batch[0], batch[1])}")


if __name__ == "__main__":
    main()
