"""The HTTP server, as clients see it: OpenAI's own, one that misbehaves, and a browser."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

httpx = pytest.importorskip("httpx")
uvicorn = pytest.importorskip("uvicorn")
openai = pytest.importorskip("openai")
pytest.importorskip("fastapi")

from infiniop.lm import LLM, AutoLlamaModel, PagedKVCacheConfig, RequestParams, ServingEngine, load_tokenizer  # noqa: E402
from infiniop.lm.server import Limits, create_app  # noqa: E402
from infiniop.lm.server.metrics import Metrics  # noqa: E402
from infiniop.lm.server.worker import Worker  # noqa: E402

DEMO = Path("examples/demo_model/model")
TEMPLATE = (
    "{% for m in messages %}{% if m.role not in ('system', 'user', 'assistant') %}"
    "{{ raise_exception('unknown role ' + m.role) }}{% endif %}# {{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}# assistant:{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The demo model, with a chat template."""
    path = shutil.copytree(DEMO, tmp_path_factory.mktemp("server") / "demo")
    (path / "chat_template.jinja").write_text(TEMPLATE)
    return path


class Server:
    """A server in a thread of its own."""

    def __init__(self, folder, limits=None, blocks=512, **options):
        model = AutoLlamaModel.from_pretrained(folder, dtype="float32")
        cache = PagedKVCacheConfig(num_blocks=blocks, block_size=16)
        self.engine = ServingEngine(model, load_tokenizer(folder), cache, **options)
        app = create_app(self.engine, "demo", folder, limits)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        self._thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self._socket]}, daemon=True)

    def __enter__(self):
        self._thread.start()
        until(lambda: self.server.started)
        return self

    def __exit__(self, *_):
        self.server.should_exit = True
        self._thread.join(30)
        assert not self._thread.is_alive()

    def post(self, path, **body):
        return httpx.post(self.url + path, json=body, timeout=60)

    def metric(self, name) -> float:
        lines = httpx.get(f"{self.url}/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    @property
    def used_blocks(self) -> int:
        return self.engine.cache.sequences.allocator.used_blocks


def until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def server(folder):
    with Server(folder) as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def offline(folder):
    return LLM(folder, dtype="float32")


def expected(offline, prompt, **params) -> str:
    (found,) = offline.generate([prompt], RequestParams(**params), progress=False)
    return found.outputs[0].text


# ------------------------------------------------------------------------------------------ OpenAI's client


def test_completions(client, offline):
    found = client.completions.create(model="demo", prompt="import os\n", max_tokens=12, temperature=0)
    text = expected(offline, "import os\n", max_new_tokens=12)
    assert (found.choices[0].text, found.choices[0].finish_reason) == (text, "length")
    assert found.usage.completion_tokens == 12 and found.usage.prompt_tokens == len(
        offline.tokenizer.encode("import os\n").ids
    )


def test_streamed_completions(client, offline):
    stream = client.completions.create(
        model="demo", prompt="def f(", max_tokens=20, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(c.choices[0].text for c in chunks if c.choices)
    assert text == expected(offline, "def f(", max_new_tokens=20)
    assert chunks[-1].usage.completion_tokens == 20
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"


def test_several_prompts_and_choices(client, offline):
    found = client.completions.create(
        model="demo", prompt="import os\n", max_tokens=6, temperature=1.0, n=3, seed=4, logprobs=2
    )
    assert [c.index for c in found.choices] == [0, 1, 2]
    for index, choice in enumerate(found.choices):
        assert choice.text == expected(offline, "import os\n", max_new_tokens=6, temperature=1.0, seed=4 + index)
        assert len(choice.logprobs.token_logprobs) == 6 and all(p <= 0 for p in choice.logprobs.token_logprobs)
        assert all(len(top) == 2 for top in choice.logprobs.top_logprobs)
    both = client.completions.create(model="demo", prompt=["import os\n", "class A"], max_tokens=5, temperature=0, n=1)
    assert [c.text for c in both.choices] == [
        expected(offline, p, max_new_tokens=5) for p in ("import os\n", "class A")
    ]


def test_chat(client, offline):
    messages = [{"role": "system", "content": "code"}, {"role": "user", "content": "hello"}]
    prompt = "# system: code\n# user: hello\n# assistant:"
    found = client.chat.completions.create(
        model="demo", messages=messages, max_tokens=10, temperature=0, logprobs=True, top_logprobs=3
    )
    text = expected(offline, prompt, max_new_tokens=10)
    assert (found.choices[0].message.content, found.choices[0].message.role) == (text, "assistant")
    assert len(found.choices[0].logprobs.content) == 10 and len(found.choices[0].logprobs.content[0].top_logprobs) == 3
    stream = client.chat.completions.create(model="demo", messages=messages, max_tokens=10, temperature=0, stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in stream) == text
    parts = [{"role": "user", "content": [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]}]
    joined = client.chat.completions.create(model="demo", messages=parts, max_tokens=4, temperature=0)
    assert joined.choices[0].message.content == expected(offline, "# user: hello\n# assistant:", max_new_tokens=4)


def test_stop(client, offline):
    text = expected(offline, "import os\n", max_new_tokens=24)
    stop = text[6:9]
    found = client.completions.create(model="demo", prompt="import os\n", max_tokens=24, temperature=0, stop=[stop])
    assert (found.choices[0].text, found.choices[0].finish_reason) == (text[: text.index(stop)], "stop")


def test_models(client):
    assert [m.id for m in client.models.list()] == ["demo"]
    assert client.models.retrieve("demo").id == "demo"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


# ------------------------------------------------------------------------------------------ bad requests


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("completions", {}, 400, "prompt"),
        ("completions", {"prompt": "x", "max_tokens": 0}, 400, "max_tokens"),
        ("completions", {"prompt": "x", "max_tokens": 10**6}, 400, "the model's context is 1024 tokens"),
        ("completions", {"prompt": "x", "max_tokens": 1024}, 400, "the prompt has 1, 1024 new ones are asked for"),
        ("completions", {"prompt": 3}, 400, "prompt: expected a text, a list of texts"),
        ("completions", {"prompt": ["x", 1]}, 400, "prompt: expected a text, a list of texts"),
        ("completions", {"prompt": "x", "stop": ["x"] * 17}, 400, "stop: expected a text, or a list of at most 16"),
        ("completions", {"prompt": "x", "model": 3}, 400, "model: "),
        ("completions", {"prompt": "x", "logit_bias": {"5": 1.0}}, 400, "logit_bias"),
        ("completions", {"prompt": "x", "temperature": -1}, 400, "temperature"),
        ("completions", {"prompt": "x", "temperature": "hot"}, 400, "temperature"),
        ("completions", {"prompt": "x", "n": 1000}, 400, "n"),
        ("completions", {"prompt": "x", "presence_penalty": 5}, 400, "presence_penalty"),
        ("completions", {"prompt": "x", "stop": [""]}, 400, "stop text"),
        ("completions", {"prompt": "x", "best_of": 2}, 400, "best_of"),
        ("completions", {"prompt": [[10**9]]}, 400, "outside the vocabulary"),
        ("completions", {"prompt": [[]]}, 400, "the prompt is empty"),
        ("completions", {"prompt": []}, 400, "prompt"),
        ("completions", {"prompt": ["x"] * 65}, 400, "at most 64 prompts"),
        ("completions", {"prompt": "x", "model": "other"}, 404, "there is no model 'other'"),
        ("completions", {"prompt": "x", "seed": 1.5}, 400, "seed"),
        ("chat/completions", {"messages": []}, 400, "messages"),
        ("chat/completions", {"messages": [{"role": "robot", "content": "x"}]}, 400, "unknown role robot"),
        ("chat/completions", {"messages": [{"role": "user"}]}, 400, "content"),
        ("chat/completions", {"messages": [{"role": "user", "content": "x"}], "tools": []}, 400, "tools: no such"),
        ("chat/completions", {"messages": [{"role": "user", "content": 3}]}, 400, "0.content: expected a text"),
        ("chat/completions", {"messages": [{"role": "user", "content": "x"}], "top_logprobs": 2}, 400, "top_logprobs"),
        (
            "chat/completions", {"messages": [{"role": "user", "content": "x"}], "response_format": {"type": "json"}},
            400, "response_format",
        ),
        ("nothing", {}, 404, "POST /v1/nothing: Not Found"),
    ],
)  # fmt: skip
def test_bad_requests_are_answered_in_json(server, path, body, status, words):
    answer = server.post(f"/v1/{path}", **body)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert words in error["message"] and isinstance(error["code"], str | None)
    assert "\n" not in error["message"]


def test_errors_carry_openais_words(client):
    def error(**request):
        with pytest.raises(openai.APIStatusError) as caught:
            client.completions.create(**request)
        return caught.value.code, caught.value.param

    assert error(model="other", prompt="x") == ("model_not_found", "model")
    assert error(model="demo", prompt="x" * 5000) == ("context_length_exceeded", None)
    assert error(model="demo", prompt="x", temperature=-1) == (None, "temperature")


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"\xff\xfe", b'{"prompt": "x"', b"null", b'{"prompt": "\xff"}', b'{"prompt": "\\ud800 x"}',
        b'{"prompt": "x", "temperature": NaN}', b'{"prompt": "x", "timeout": Infinity}', b"[" * 10**5,
        '{"prompt": "x"}'.encode("utf-16"),
    ],
)  # fmt: skip
def test_bodies_that_are_no_requests(server, content):
    answer = httpx.post(f"{server.url}/v1/completions", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400 and answer.json()["error"]["message"]


def test_a_body_must_be_declared_as_json(server):
    sent = {"content": b'{"prompt": "x", "max_tokens": 1}'}
    answer = httpx.post(f"{server.url}/v1/completions", **sent)
    assert answer.status_code == 400 and "application/json, got none" in answer.json()["error"]["message"]
    declared = {"Content-Type": "application/JSON; charset=utf-8"}
    assert httpx.post(f"{server.url}/v1/completions", headers=declared, **sent).status_code == 200


@pytest.mark.parametrize(
    "options",
    [
        {"top_p": 1e-300}, {"temperature": 1e-300}, {"top_k": 10**40}, {"min_p": 1e-300}, {"seed": -(10**40)},
        {"repetition_penalty": 1e308, "temperature": 1e-40}, {"stop": "x" * 10**5}, {"n": 128},
    ],
    ids=lambda options: next(iter(options)),
)  # fmt: skip
def test_extreme_options_are_served(server, options):
    answer = server.post("/v1/completions", prompt="import os\n", max_tokens=2, **({"temperature": 1} | options))
    assert answer.status_code == 200, answer.text
    assert server.post("/v1/completions", prompt="x", max_tokens=1).status_code == 200


def test_what_changes_nothing_is_taken(server):
    """Null is not given; what clients send of fields that are not served, as long as it says what is done anyway."""
    nulls = dict.fromkeys(("n", "stop", "stream", "stream_options", "logprobs", "tools", "logit_bias", "max_tokens"))
    neutral = {"logit_bias": {}, "user": "me", "prompt_cache_key": "k"}
    assert server.post("/v1/completions", prompt="x", **nulls).status_code == 200
    own = {"best_of": 1, "suffix": "", "echo": False, "max_tokens": 1}
    assert server.post("/v1/completions", prompt="x", **neutral, **own).status_code == 200
    own = {"response_format": {"type": "text"}, "tool_choice": "none", "parallel_tool_calls": True, "max_tokens": 1}
    said = {"role": "assistant", "content": "y", "refusal": None, "tool_calls": None}  # as a client keeps an answer
    messages = [{"role": "user", "content": "x"}, said, {"role": "user", "content": "z"}]
    assert server.post("/v1/chat/completions", messages=messages, **neutral, **own).status_code == 200


def test_a_model_without_a_chat_template_says_so():
    with Server(DEMO) as plain:
        answer = plain.post("/v1/chat/completions", messages=[{"role": "user", "content": "x"}])
        assert answer.status_code == 400 and "no chat template" in answer.json()["error"]["message"]


def test_bodies_are_bounded(folder):
    with Server(folder, Limits(body_bytes=2000)) as small:
        refused = small.post("/v1/completions", prompt="x" * 3000)
        assert (refused.status_code, refused.headers["connection"]) == (413, "close")

        def pieces():
            for _ in range(30):
                yield b" " * 100

        declared = {"Content-Type": "application/json"}
        unsaid = httpx.post(f"{small.url}/v1/completions", content=pieces(), headers=declared)
        assert unsaid.status_code == 413 and "longer than 2000 bytes" in unsaid.json()["error"]["message"]
        assert small.post("/v1/completions", prompt="x", max_tokens=1).status_code == 200


def test_bodies_that_do_not_come(folder, caplog):
    """Half a request must not keep the server from ending, and who leaves in the middle is no error of ours."""
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
    with Server(folder, Limits(body_seconds=0.3)) as patient:
        address = patient.url.removeprefix("http://").split(":")
        with socket.create_connection((address[0], int(address[1]))) as left:
            left.sendall(head)
        with socket.create_connection((address[0], int(address[1]))) as waiting:
            waiting.sendall(head)
            answer = b"".join(iter(lambda: waiting.recv(4096), b""))
        assert answer.startswith(b"HTTP/1.1 408 ") and b"has not come within 0.3 seconds" in answer
        until(lambda: patient.metric('infiniop_requests_total{outcome="499"}') == 1)
    assert "Traceback" not in caplog.text and not caplog.records


def test_keys(folder):
    with Server(folder, Limits(api_key="sesame")) as closed:
        assert closed.post("/v1/completions", prompt="x").status_code == 401
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=f"{closed.url}/v1", api_key="wrong").models.list()
        assert openai.OpenAI(base_url=f"{closed.url}/v1", api_key="sesame").models.list().data
        assert httpx.get(f"{closed.url}/health").status_code == 200


# ------------------------------------------------------------------------------------------ load


def test_too_many_requests_are_refused_and_the_others_served(folder, offline):
    with Server(folder, max_running=2, max_step_tokens=64, max_waiting=3) as busy:
        body = {"prompt": "import os\n", "max_tokens": 60, "temperature": 0, "ignore_eos": True}
        with ThreadPoolExecutor(24) as pool:
            answers = list(pool.map(lambda _: busy.post("/v1/completions", **body), range(24)))
        served = [a for a in answers if a.status_code == 200]
        refused = [a for a in answers if a.status_code == 429]
        assert len(served) + len(refused) == 24 and served and refused
        assert all(a.headers["retry-after"] and a.json()["error"]["type"] == "rate_limit_error" for a in refused)
        text = expected(offline, "import os\n", max_new_tokens=60, ignore_eos=True)
        assert {a.json()["choices"][0]["text"] for a in served} == {text}
        until(lambda: busy.used_blocks == 0)


def test_mixed_load_is_answered_as_each_request_alone(server, offline):
    """A small load generator: prompts and lengths differ, some stream."""
    prompts = ["import os\n", "def f(x):\n", "class A:\n    def ", "# a comment\n", "for i in "]
    jobs = [(prompts[i % 5], 3 + 7 * i % 40, i % 3 == 0) for i in range(30)]

    def ask(job):
        prompt, count, stream = job
        body = {"prompt": prompt, "max_tokens": count, "temperature": 0, "ignore_eos": True, "stream": stream}
        if not stream:
            return server.post("/v1/completions", **body).json()["choices"][0]["text"]
        with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=60) as answer:
            lines = [line[6:] for line in answer.iter_lines() if line.startswith("data: {")]
        return "".join(json.loads(line)["choices"][0]["text"] for line in lines)

    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(ask, jobs))
    assert found == [expected(offline, p, max_new_tokens=n, ignore_eos=True) for p, n, _ in jobs]
    until(lambda: server.used_blocks == 0)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_blocks(server, stream):
    body = {"prompt": "import os\n", "max_tokens": 900, "ignore_eos": True, "stream": stream}
    before = server.metric("infiniop_generated_tokens_total")
    with contextlib.suppress(httpx.ReadTimeout):
        if stream:
            with httpx.stream("POST", f"{server.url}/v1/completions", json=body) as answer:
                next(answer.iter_lines())
        else:
            httpx.post(f"{server.url}/v1/completions", json=body, timeout=0.3)
    until(lambda: server.used_blocks == 0)
    assert server.metric("infiniop_generated_tokens_total") - before < 900


def test_metrics(server):
    before = server.metric("infiniop_generated_tokens_total"), server.metric("infiniop_ttft_seconds_count")
    prefix = server.metric("infiniop_prefix_hit_tokens_total")
    prompt = "x = 1\n" * 30
    for _ in range(2):
        server.post("/v1/completions", prompt=prompt, max_tokens=5, ignore_eos=True)
    assert server.metric("infiniop_generated_tokens_total") == before[0] + 10
    assert server.metric("infiniop_ttft_seconds_count") == before[1] + 2
    assert server.metric("infiniop_prefix_hit_tokens_total") > prefix
    assert server.metric("infiniop_cache_blocks_used ") == 0 and server.metric("infiniop_cache_blocks ") == 512
    for name in ("itl_seconds_count", "waiting", "running", "preemptions_total", "requests_total"):
        assert f"infiniop_{name}" in httpx.get(f"{server.url}/metrics").text


def test_an_engine_that_fails_is_reported(folder, monkeypatch, caplog):
    with Server(folder) as broken:
        monkeypatch.setattr(broken.engine, "_run", lambda work: 1 / 0)
        assert broken.metric("infiniop_cache_blocks ") == 512
        assert broken.post("/v1/completions", prompt="x").status_code == 503
        assert httpx.get(f"{broken.url}/health").status_code == 503
        assert "ZeroDivisionError" in broken.post("/v1/completions", prompt="x").json()["error"]["message"]
    assert "ZeroDivisionError" in caplog.text  # with its traceback, for who runs the server


# ------------------------------------------------------------------------------------------ the command


def test_a_shutdown_finishes_what_runs(folder):
    port = socket.create_server(("127.0.0.1", 0))
    number = port.getsockname()[1]
    port.close()
    command = [sys.executable, "-m", "infiniop", "serve", str(folder), "--port", str(number), "--name", "m"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    url = f"http://127.0.0.1:{number}"

    def ready():
        assert process.poll() is None, process.stderr.read()
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{url}/health").status_code == 200
        return False

    try:
        until(ready, 60)
        body = {"prompt": "import os\n", "max_tokens": 300, "ignore_eos": True, "stream": True, "temperature": 0}
        with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=60) as answer:
            lines = answer.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]" and '"finish_reason": "length"' in rest[-2]
        assert process.wait(30) in (0, -signal.SIGTERM)
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


@pytest.mark.parametrize("address", [("127.0.0.1", None), ("no.such.host.invalid", "1")])
def test_an_address_that_cannot_be_had_is_one_sentence(address):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        host, port = address[0], address[1] or str(taken.getsockname()[1])
        command = [sys.executable, "-m", "infiniop", "serve", str(DEMO), "--host", host, "--port", port]
        found = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert found.returncode == 1 and found.stdout == ""
    assert found.stderr.startswith(f"infiniop: cannot listen on {host}, port {port}: ")
    assert found.stderr.count("\n") == 1  # and no model has been loaded


def test_a_conversation_in_the_terminal(folder):
    command = [sys.executable, "-m", "infiniop", "chat", str(folder), "--max-new-tokens", "8", "--temperature", "0"]
    done = subprocess.run(command, input="hello\nagain\n\n", capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.strip()) > 10
    plain = subprocess.run([*command[:4], str(DEMO)], input="x\n", capture_output=True, text=True, timeout=60)
    assert plain.returncode != 0 and "no chat template" in plain.stderr and "Traceback" not in plain.stderr


# ------------------------------------------------------------------------------------------ the page


@pytest.fixture
def browser(tmp_path):
    webdriver = pytest.importorskip("selenium.webdriver")
    if not shutil.which("chromium") or not shutil.which("chromedriver"):
        pytest.skip("chromium or chromium-driver is missing")
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in ("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-component-update",
                 "disable-background-networking", "disable-sync", f"user-data-dir={tmp_path}"):  # fmt: skip
        options.add_argument(f"--{flag}")
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


def test_the_chat_page(server, offline, browser, monkeypatch):
    monkeypatch.setattr(server.engine, "room", lambda length: 40)  # a long answer would leave none for the second turn
    browser.get(server.url)
    find = browser.find_element
    until(lambda: find("id", "model").text == "demo")
    for text in ("hello", "again"):
        find("id", "text").send_keys(text)
        find("id", "send").click()
        until(lambda: "tokens/s" in find("id", "figures").text and find("id", "send").is_displayed(), 60)
    turns = [
        (t.get_attribute("class"), t.get_attribute("textContent")) for t in browser.find_elements("class name", "turn")
    ]
    assert [kind for kind, _ in turns] == ["turn user", "turn assistant"] * 2
    assert (turns[0][1], turns[2][1]) == ("hello", "again")
    assert turns[1][1] or turns[3][1]  # an answer that is drawn may end at once


def test_a_request_that_is_given_up_before_the_engine_sees_it(folder):
    """Its client has gone while the engine was busy: the others do not notice."""
    model = AutoLlamaModel.from_pretrained(folder, dtype="float32")
    worker = Worker(ServingEngine(model, load_tokenizer(folder)), Metrics())
    worker.start()
    busy, seen = threading.Event(), []
    worker.call(lambda: busy.wait(20))  # type: ignore[arg-type,return-value]
    given_up = worker.call(lambda: seen.append("given up"))
    assert given_up.cancel()
    busy.set()
    worker.call(lambda: seen.append("after")).result(20)
    assert seen == ["after"] and worker.healthy


def test_a_broken_engine_still_answers(folder):
    class Broken(ServingEngine):
        def step(self):
            raise RuntimeError("broken")

        def cancel(self, request_id):
            raise RuntimeError("still broken")

    worker = Worker(Broken(AutoLlamaModel.from_pretrained(folder, dtype="float32"), load_tokenizer(folder)), Metrics())
    worker.start()
    worker.call(lambda: worker.engine.add("x", [1])).result(20)
    until(lambda: not worker.healthy)
    worker.cancel("x")
    assert worker.call(lambda: None).result(20) is None


def test_token_times_are_those_of_a_continuation(server):
    before = {name: server.metric(f"infiniop_{name}_seconds_count") for name in ("ttft", "itl")}
    server.post("/v1/completions", prompt="x", n=3, max_tokens=5, temperature=1, ignore_eos=True)
    after = {name: server.metric(f"infiniop_{name}_seconds_count") for name in ("ttft", "itl")}
    assert (after["ttft"] - before["ttft"], after["itl"] - before["itl"]) == (3, 12)
