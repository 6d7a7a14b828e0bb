"""Several ranks: the same tokens as one, every rank its share, and an end that leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from infiniop.lm import (
    AutoLlamaModel,
    DistConfig,
    HookRegistry,
    InferEngine,
    PagedKVCacheConfig,
    RequestParams,
    ServingEngine,
    StaticKVCacheConfig,
    load_config,
)
from infiniop.lm.arrays import infini_to_numpy
from infiniop.lm.cache import KVCache
from infiniop.lm.checkpoint import Checkpoint
from infiniop.lm.ranks import Place, RankError

pytest.importorskip("torch")

DEMO = "examples/demo_model/model"


def children() -> set[int]:
    """Processes of ranks that this process has started."""
    listed = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return {int(pid) for pid in listed if b"infiniop.lm.ranks" in Path(f"/proc/{pid}/cmdline").read_bytes()}


@contextmanager
def spread(path, **ranks):
    model = AutoLlamaModel.from_pretrained(path, dtype="float32", distributed_config=DistConfig(**ranks))
    try:
        yield model
    finally:
        model.close()


@pytest.mark.parametrize(
    ("architecture", "ranks"),
    [
        ("llama-gqa", {"tp_size": 2}),
        ("llama-gqa", {"pp_size": 3}),
        ("llama-mha", {"tp_size": 2, "pp_size": 2}),  # biases, three layers on two stages
        ("llama-mqa-tied", {"pp_size": 2}),
        ("qwen2", {"tp_size": 2}),
        ("qwen3", {"tp_size": 2}),
    ],
)
def test_tokens_are_those_of_one_rank(checkpoint, prompts, architecture, ranks):
    pair, rows = checkpoint(architecture), prompts(1, 7, 23)
    with spread(pair.path, **ranks) as model:
        found = model.generate(rows, 24, stop_on_eos=False).token_ids
        paged = model.generate(
            rows, 24, stop_on_eos=False, cache_config=PagedKVCacheConfig(num_blocks=64, block_size=4)
        ).token_ids
    assert found == paged == [pair.greedy(row, 24) for row in rows]


@pytest.fixture(scope="module")
def engine(checkpoint):
    path = checkpoint("llama-gqa").path
    engine = InferEngine(load_config(path), DistConfig(tp_size=2), dtype="float32")
    files = Checkpoint(path)
    engine.load_params({name: files.array(name) for name in files})
    yield engine
    engine.model.close()


def test_an_engine_gives_every_rank_its_shard(engine, checkpoint, prompts):
    assert repr(engine) == "<InferEngine: DistConfig(tp_device_ids=[0, 1])>"
    (row,) = prompts(11)
    step = InferEngine.Input([row], temperature=0.0, return_logits=True)
    out = engine.forward(step)
    expected = checkpoint("llama-gqa").logits([row])[0][-1]
    np.testing.assert_allclose(infini_to_numpy(out.logits)[0], expected, atol=1e-4 * np.abs(expected).max())
    assert int(out.output_ids.numpy()[0]) == int(expected.argmax())
    states, files = engine.state_dict(), Checkpoint(checkpoint("llama-gqa").path)
    for name, axis in (("self_attn.q_proj", 0), ("self_attn.o_proj", 1), ("mlp.down_proj", 1), ("mlp.up_proj", 0)):
        whole = files.array(f"model.layers.1.{name}.weight")
        shards = [infini_to_numpy(state[f"model.layers.1.{name}.weight"]) for state in states]
        np.testing.assert_array_equal(np.concatenate(shards, axis), whole)
    assert "model.embed_tokens.weight" in states[0] and "lm_head.weight" not in states[1]


def test_an_engine_switches_its_cache(engine, prompts, checkpoint):
    rows = prompts(5, 9)
    for config in (StaticKVCacheConfig(2, 64), PagedKVCacheConfig(num_blocks=40, block_size=4), StaticKVCacheConfig(2)):
        engine.reset_cache(config)
        found = engine.generate(rows, 6, stop_on_eos=False, cache_config=config).token_ids
        assert found == [checkpoint("llama-gqa").greedy(row, 6) for row in rows]


def test_a_hook_that_fails_leaves_the_ranks_in_step(engine, prompts, checkpoint):
    hooks, seen = HookRegistry(), []

    def fail(name, tensor, layer):
        seen.append(tuple(tensor.shape))
        raise KeyError("from the hook")

    hooks.register_hook("layer1_q_proj", fail)
    engine.set_hook_registry(hooks)
    with pytest.raises(KeyError, match="from the hook"):
        engine.generate(prompts(4), 3, stop_on_eos=False)
    engine.set_hook_registry(None)
    assert seen == [(4, 4 * 12)]  # half of the eight heads
    assert engine.generate(prompts(4), 3, stop_on_eos=False).token_ids[0] == checkpoint("llama-gqa").greedy(
        prompts(4)[0], 3
    )


def test_an_interrupted_step_ends_the_ranks(checkpoint, prompts):
    """Rank 0 stops midway; the others would take its next sums for those of this step."""

    def interrupt(*_):
        raise KeyboardInterrupt

    with spread(checkpoint("llama-gqa").path, tp_size=2) as model:
        hooks = HookRegistry()
        hooks.register_hook("layer1_q_proj", interrupt)
        model.set_hook_registry(hooks)
        with pytest.raises(KeyboardInterrupt):
            model.generate(prompts(4), 3)
        model.set_hook_registry(None)
        with pytest.raises(RankError, match="have ended"):
            model.generate(prompts(4), 3)


def test_bad_input_is_refused_before_the_ranks_hear_of_it(engine):
    with pytest.raises(ValueError, match="outside the vocabulary"):
        engine.generate([[640]], 3)
    with pytest.raises(ValueError, match=r"new_cache\(\) only"):
        engine.model([[1, 2]], kv_cache=KVCache(engine.config, 1, 8, dtype="float32"))
    with pytest.raises(ValueError, match="block_tables"):
        engine.reset_cache(PagedKVCacheConfig(num_blocks=4, block_size=4))
        engine.forward(InferEngine.Input([[1, 2]]))
    engine.reset_cache(StaticKVCacheConfig(2, 64))
    assert engine.generate([[1, 2]], 3, stop_on_eos=False).token_ids


def test_serving_copies_blocks_on_every_rank(checkpoint, prompts):
    path, (row,) = checkpoint("llama-gqa").path, prompts(10)
    params = RequestParams(temperature=1.0, seed=3, n=3, max_new_tokens=10, ignore_eos=True)
    found = []
    for ranks in ({}, {"tp_size": 2, "pp_size": 2}):
        with spread(path, **ranks) as model:
            serving = ServingEngine(model, cache_config=PagedKVCacheConfig(num_blocks=40, block_size=4))
            serving.add("x", row, params)
            tokens: dict[int, list[int]] = {}
            while serving:
                for event in serving.step():
                    tokens.setdefault(event.index, []).append(event.token_id)
        found.append(tokens)
    assert found[0] == found[1]


@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_weights_quantised_at_load_are_sharded(checkpoint, prompts, quantize):
    path = checkpoint("llama-mha").path
    one = AutoLlamaModel.from_pretrained(path, dtype="float32", quantize=quantize)
    two = AutoLlamaModel.from_pretrained(
        path, dtype="float32", quantize=quantize, distributed_config=DistConfig(pp_size=2)
    )
    try:
        rows = prompts(9)
        assert (
            one.generate(rows, 12, stop_on_eos=False).token_ids == two.generate(rows, 12, stop_on_eos=False).token_ids
        )
    finally:
        two.close()


@pytest.mark.parametrize(
    ("ranks", "message"),
    [
        ({"tp_size": 3}, r"num_attention_heads \(8\) cannot be split over 3 ranks; \[1, 2, 4, 8\] would divide it"),
        ({"tp_size": 4}, r"num_key_value_heads \(2\) cannot be split over 4 ranks"),
        ({"pp_size": 4}, "3 layers cannot be split into 4 stages"),
    ],
)
def test_models_that_cannot_be_spread(checkpoint, ranks, message):
    before = children()
    with pytest.raises(ValueError, match=message), spread(checkpoint("llama-gqa").path, **ranks):
        pass
    assert children() == before


def test_stages_share_the_layers_evenly():
    for count in range(1, 12):
        for stages in range(1, count + 1):
            places = [Place(pp_rank=rank, pp_size=stages) for rank in range(stages)]
            assert [n for place in places for n in place.layers(count)] == list(range(count))
            sizes = [len(place.layers(count)) for place in places]
            assert max(sizes) - min(sizes) <= 1 and max(sizes) == places[0].most_layers(count)


# ------------------------------------------------------------------------------------------------ ends


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM])
def test_a_rank_that_dies_ends_the_job_and_is_named(checkpoint, prompts, signal_number):
    before = children()
    with spread(checkpoint("llama-gqa").path, tp_size=2, pp_size=2) as model:
        (process, *_) = sorted(children() - before)
        stream = iter(model.stream_generate(prompts(5), 200, stop_on_eos=False))
        next(stream)
        os.kill(process, signal_number)
        began = time.monotonic()
        with pytest.raises(RankError, match=rf"rank 1 of 4 has died \(killed by signal {int(signal_number)}\)"):
            for _ in stream:
                pass
        assert time.monotonic() - began < 10
        assert children() == before
        with pytest.raises(RankError, match="have ended"):
            model.generate(prompts(5), 2)


def test_a_rank_that_fails_to_load_ends_the_job(checkpoint, tmp_path, prompts):
    """Only the second stage reads the last layer."""
    folder = shutil.copytree(checkpoint("llama-gqa").path, tmp_path / "model")
    program = (
        "import sys\n"
        "from infiniop.lm import AutoLlamaModel, DistConfig, runner\n"
        "if __name__ == '__main__':\n"
        "    AutoLlamaModel.from_pretrained(sys.argv[1], distributed_config=DistConfig(pp_size=2)).generate([[1]], 2)\n"
    )
    spoiled = {**os.environ, "INFINIOP_BACKENDS": "cpu"}
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nif 'infiniop.lm.ranks' in ' '.join(sys.orig_argv):\n    os._exit(7)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)],
        env={**spoiled, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode != 0
    assert "rank 1 of 2 has died (exit status 7" in done.stderr


def test_ranks_end_with_their_caller(checkpoint):
    program = (
        "import sys, time\n"
        "from infiniop.lm import AutoLlamaModel, DistConfig\n"
        "model = AutoLlamaModel.from_pretrained(sys.argv[1], distributed_config=DistConfig(tp_size=2))\n"
        "print(model._ranks._processes[0].pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    path = checkpoint("llama-gqa").path
    process = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True)
    rank = int(process.stdout.readline())
    process.kill()
    process.wait()
    process.stdout.close()
    end = time.monotonic() + 10
    while Path(f"/proc/{rank}").exists() and time.monotonic() < end:
        state = Path(f"/proc/{rank}/stat").read_text().rpartition(")")[2].split()[0]
        if state == "Z":
            break
        time.sleep(0.05)
    else:
        assert not Path(f"/proc/{rank}").exists()


# ------------------------------------------------------------------------------------------------ commands


def generated(*command: str) -> str:
    """What a command that runs `infiniop` continues a prompt with."""
    arguments = ["generate", DEMO, "-p", "import os\n", "--max-new-tokens", "12", "--temperature", "0", "--no-stream"]
    done = subprocess.run([sys.executable, "-m", *command[:-1], *arguments, *command[-1].split()],
                          capture_output=True, text=True, timeout=120)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n\n")[0]


def test_one_command_on_one_machine():
    assert generated("infiniop", "") == generated("infiniop", "--tp 2")


def test_ranks_that_torchrun_has_started():
    launcher = ["torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", "2"]
    assert generated("infiniop", "") == generated(*launcher, "-m", "infiniop", "--pp 2")
