"""Options that more than one command has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[Path, typer.Argument(help="Folder with config.json, safetensors and tokenizer.json.")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; default: the model's own.")]
Quantize = Annotated[
    str | None,
    typer.Option(
        help="int8 or int4: quantise the weights when loading; int4-g128-o4-a8: in groups of 128, the tied output in "
        "int4, activations to 8 bits too."
    ),
]
Tp = Annotated[int, typer.Option(min=1, help="Ranks that share every layer (tensor parallelism).")]
Pp = Annotated[int, typer.Option(min=1, help="Stages of layers (pipeline parallelism).")]
Device = Annotated[str, typer.Option(help="Device that computes.")]
Temperature = Annotated[float | None, typer.Option(min=0.0, help="0 is greedy; default: the model's own.")]
Seed = Annotated[int | None, typer.Option(help="The same seed gives the same text.")]
