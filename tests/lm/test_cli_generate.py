"""`infiniop generate` on the demonstration model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from infiniop import cli
from infiniop.cli import generate

MODEL = Path(__file__).parents[2] / "examples" / "demo_model" / "model"
PROMPT = "def main("


@pytest.fixture
def run(monkeypatch):
    """Runs `infiniop generate` with these arguments."""
    monkeypatch.setenv("INFINIOP_BACKENDS", os.environ.get("INFINIOP_BACKENDS", ""))
    app = typer.Typer()
    generate.register(app)
    app.callback()(lambda: None)
    return lambda *arguments: CliRunner().invoke(app, ["generate", *map(str, arguments)])


def test_json_holds_text_ids_and_figures(run):
    options = ("--max-new-tokens", 12, "--temperature", 0, "--json")
    results = [
        run(MODEL, "-p", PROMPT, *options, "--cache", cache, "--dtype", dtype)
        for cache in ("static", "paged")
        for dtype in ("float32", "bfloat16")
    ]
    assert all(result.exit_code == 0 for result in results), results[0].output
    found = [json.loads(result.stdout) for result in results]
    for answer in found:
        (sequence,) = answer["sequences"]
        assert sequence["prompt"] == PROMPT and sequence["text"] and len(sequence["token_ids"]) <= 12
        assert answer["statistics"]["generated_tokens"] == len(sequence["token_ids"])
        assert {"ttft_ms", "itl_ms", "tokens_per_second", "prefill_tokens_per_second"} <= set(answer["statistics"])
    assert found[0]["sequences"] == found[2]["sequences"] and found[1]["sequences"] == found[3]["sequences"]


def test_text_is_streamed_and_figures_follow(run):
    arguments = (MODEL, "--prompt", PROMPT, "--max-new-tokens", 12, "--seed", 3, "--top-k", 40, "--top-p", 0.9)
    streamed, whole = run(*arguments), run(*arguments, "--no-stream")
    assert streamed.exit_code == 0 and streamed.stdout.startswith(PROMPT)
    text, figures = streamed.stdout.rsplit("\n\n", 1)
    assert whole.stdout.startswith(text)
    for word in ("TTFT", "ITL", "tokens/s", "prefill", "12 new tokens"):
        assert word in figures


def test_several_prompts_are_a_batch(run):
    alone = [run(MODEL, "-p", p, "--max-new-tokens", 8, "--temperature", 0, "--json") for p in (PROMPT, "import os\n")]
    both = run(MODEL, "-p", PROMPT, "-p", "import os\n", "--max-new-tokens", 8, "--temperature", 0, "--json")
    assert json.loads(both.stdout)["sequences"] == [json.loads(one.stdout)["sequences"][0] for one in alone]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere", "-p", "a"], "there is no folder nowhere"),
        (["tests", "-p", "a"], "tokenizer.json does not exist"),
        ([MODEL, "-p", "\udcff"], "not valid Unicode"),
        ([MODEL, "-p", "a", "--temperature", "inf"], "temperature must be a finite number"),
        ([MODEL, "-p", "a", "--backend", "nowhere"], "there is no backend named 'nowhere': expected some of"),
        ([MODEL, "-p", "a", "--dtype", "int8"], "dtype must be float32, bfloat16 or float16"),
        ([MODEL, "-p", "a", "--top-p", "0", "--temperature", "1"], "top_p"),
        ([MODEL, "-p", "a", "--device", "nonsense"], "nonsense"),
        ([MODEL, "-p", ""], "empty"),
    ],
)
def test_mistakes_end_with_one_sentence(monkeypatch, capsys, arguments, words):
    monkeypatch.setenv("INFINIOP_BACKENDS", os.environ.get("INFINIOP_BACKENDS", ""))
    assert cli.main(["generate", *map(str, arguments)]) in (1, 2)
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("infiniop: ") and words in err and err.count("\n") == 1


def test_a_reader_that_goes_is_no_mistake():
    command = [sys.executable, "-m", "infiniop", "generate", str(MODEL), "-p", PROMPT, "--max-new-tokens", "400"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait(60) in (0, 1)


def test_the_reference_backend_gives_the_same_text():
    """Backends are read when the libraries load, so each has a process of its own."""
    script = "import typer; from infiniop.cli import generate; app = typer.Typer(); generate.register(app); app()"
    options = [str(MODEL), "-p", PROMPT, "--max-new-tokens", "4", "--temperature", "0", "--dtype", "float32", "--json"]
    answers = []
    for backend in ("cpu", "reference"):
        command = [sys.executable, "-c", script, *options, "--backend", backend]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        answers.append(json.loads(done.stdout)["sequences"])
    assert answers[0] == answers[1]
