"""A server under random load: arrivals, cancellations, disconnects, malformed requests and exhaustion, for minutes.

`python tests/lm/soak.py --minutes 5`: fails when an answer is not one of the intended ones, when blocks stay in use, or
when the server's memory grows by more than 2 % after it has warmed up.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import httpx

DEMO = Path(__file__).parents[2] / "examples" / "demo_model" / "model"
PROMPTS = ["import os\n", "def f(x):\n    return ", "class A:\n    def __init__(self", "# " + "word " * 120, "x"]
MALFORMED = [
    b"{", b"[]", b"\xff", b"{}", b'{"prompt": 3}', b'{"prompt": "x", "n": 0}', b'{"prompt": "x", "tools": []}',
    b'{"prompt": [[99999999]]}', b'{"prompt": "x", "max_tokens": 100000}', b'{"prompt": "' + b"x" * 70000 + b'"}',
]  # fmt: skip


class Soak:
    def __init__(self, url: str, seed: int):
        self.url, self.random = url, random.Random(seed)
        self.answers: Counter[str] = Counter()
        self.failures: list[str] = []
        self.client = httpx.AsyncClient(base_url=url, timeout=120, limits=httpx.Limits(max_connections=200))

    async def one(self) -> None:
        kind = self.random.choices(["whole", "stream", "leave", "malformed", "chat"], [4, 4, 3, 2, 2])[0]
        try:
            self.answers[f"{kind} {await getattr(self, kind)()}"] += 1
        except Exception as error:
            self.failures.append(f"{kind}: {type(error).__name__}: {error}")

    def body(self, **more: object) -> dict:
        r = self.random
        return {
            "prompt": r.choice(PROMPTS) * r.randint(1, 3), "max_tokens": r.choice([1, 5, 20, 60, 200]),
            "n": r.choice([1, 1, 1, 2, 3]), "temperature": r.choice([0, 0.8]), "ignore_eos": True,
            "stop": r.choice([None, "self"]),
            "presence_penalty": r.choice([0, 0, 0.5]), **more,
        }  # fmt: skip

    async def whole(self) -> int:
        answer = await self.client.post("/v1/completions", json=self.body())
        assert answer.status_code in (200, 429), answer.text
        if answer.status_code == 200:
            assert all(c["finish_reason"] in ("stop", "length") for c in answer.json()["choices"])
        return answer.status_code

    async def stream(self) -> int:
        async with self.client.stream("POST", "/v1/completions", json=self.body(stream=True)) as answer:
            assert answer.status_code in (200, 429)
            lines = [line async for line in answer.aiter_lines() if line]
        assert answer.status_code == 429 or lines[-1] == "data: [DONE]", lines[-1]
        return answer.status_code

    async def leave(self) -> int | str:
        """A client that goes away at some point."""
        try:
            async with asyncio.timeout(self.random.uniform(0.01, 0.5)):
                return await self.stream()
        except TimeoutError:
            return "left"

    async def malformed(self) -> int:
        answer = await self.client.post(
            "/v1/completions", content=self.random.choice(MALFORMED), headers={"Content-Type": "application/json"}
        )
        assert answer.status_code in (400, 413), (answer.status_code, answer.text)
        assert answer.json()["error"]["message"]
        return answer.status_code

    async def chat(self) -> int:
        body = {"messages": [{"role": "user", "content": self.random.choice(PROMPTS)}], "max_tokens": 20}
        answer = await self.client.post("/v1/chat/completions", json=body)
        assert answer.status_code in (200, 429), answer.text
        return answer.status_code

    async def load(self, seconds: float) -> None:
        """Bursts and pauses for that long; then waits for what is under way."""
        end, tasks = time.monotonic() + seconds, set()
        while time.monotonic() < end:
            for _ in range(self.random.randint(1, 12)):
                task = asyncio.create_task(self.one())
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            await asyncio.sleep(self.random.expovariate(3.0))
            while len(tasks) > 60:
                await asyncio.sleep(0.05)
        await asyncio.gather(*tasks)

    async def idle(self) -> None:
        """Until no block is in use."""
        for _ in range(600):
            metrics = (await self.client.get("/metrics")).text.splitlines()
            if "infiniop_cache_blocks_used 0.0" in metrics and "infiniop_running 0.0" in metrics:
                return
            await asyncio.sleep(0.05)
        raise AssertionError("blocks stay in use")


def resident_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


async def run(url: str, pid: int, minutes: float, seed: int) -> None:
    soak = Soak(url, seed)
    rounds = max(4, round(minutes * 2))
    memory = []
    for number in range(rounds):
        await soak.load(minutes * 60 / rounds)
        await soak.idle()
        memory.append(resident_mib(pid))
        print(f"{number + 1}/{rounds}: {memory[-1]:.1f} MiB, {sum(soak.answers.values())} answers", flush=True)
    warm = memory[rounds // 2]  # by then the caches of descriptors, which are bounded, have seen most shapes
    print(dict(sorted(soak.answers.items())))
    metrics = (await soak.client.get("/metrics")).text
    for name in ("infiniop_preemptions_total", "infiniop_prefix_hit_tokens_total", "infiniop_generated_tokens_total"):
        print(next(line for line in metrics.splitlines() if line.startswith(name)))
    assert not soak.failures, f"{len(soak.failures)} failures, the first: {soak.failures[:3]}"
    assert memory[-1] <= 1.02 * warm, f"resident memory grew from {warm:.1f} to {memory[-1]:.1f} MiB"
    seen = " ".join(soak.answers)
    assert all(kind in seen for kind in ("whole 200", "malformed 400", "leave left")), "no such load"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = shutil.copytree(DEMO, Path(folder) / "demo")
        (model / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "infiniop", "serve", str(model), "--port", str(port), "--max-body", "64"]
        # A cache that a few long requests fill, and a short queue.
        process = subprocess.Popen(
            [*command, "--kv-memory", "3", "--max-running", "16", "--max-step-tokens", "128", "--max-waiting", "6"],
            stdout=subprocess.DEVNULL, env={**os.environ, "INFINIOP_LOG_LEVEL": "ERROR"},
        )  # fmt: skip
        try:
            for _ in range(600):
                with contextlib.suppress(httpx.TransportError):
                    if httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200:
                        break
                assert process.poll() is None, "the server has ended"
                time.sleep(0.1)
            asyncio.run(run(f"http://127.0.0.1:{port}", process.pid, given.minutes, given.seed))
        finally:
            process.terminate()
            process.wait(30)


if __name__ == "__main__":
    main()
