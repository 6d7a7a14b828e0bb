"""OpenAI's requests and responses, as far as they are served here."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidatorFunctionWrapHandler, WrapValidator, model_validator
from pydantic_core import PydanticCustomError, ValidationError

from ..requests import RequestParams
from ..sampling import sampling_options


def _expecting(what: str) -> WrapValidator:
    """One sentence for a field that takes several forms, instead of what is wrong with the first of them."""

    def validate(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise PydanticCustomError("form", "expected {what}", {"what": what}) from None

    return WrapValidator(validate)


class _Object(BaseModel):
    """A JSON object whose fields are known: others are refused by name, but null counts as not given."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, given: Any) -> Any:
        return {k: v for k, v in given.items() if v is not None} if isinstance(given, dict) else given


class StreamOptions(_Object):
    include_usage: bool = False
    include_obfuscation: bool = False  # OpenAI's padding, of which our streams have none


class _Request(_Object):
    """Fields that both endpoints have. What would change the result and is not served is refused by name."""

    model: str | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1, le=128)] = 1
    seed: int | None = None
    stop: Annotated[
        str | Annotated[list[str], Field(max_length=16)] | None, _expecting("a text, or a list of at most 16 texts")
    ] = None
    stop_token_ids: list[int] = []
    ignore_eos: bool = False
    repetition_penalty: Annotated[float, Field(gt=0)] = 1.0
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    stream: bool = False
    stream_options: StreamOptions | None = None
    timeout: Annotated[float, Field(gt=0)] | None = None
    # Taken and passed over: they do not concern the text.
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    # Taken as long as they say what is done anyway.
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] = {}

    def params(self, defaults: dict[str, Any], max_new_tokens: int, logprobs: int | None) -> RequestParams:
        """`defaults`: the model's own sampling options, for what is not given."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return RequestParams(
            **sampling_options(vars(self), defaults),
            seed=self.seed,
            max_new_tokens=max_new_tokens,
            n=self.n,
            stop=tuple(stop),
            stop_token_ids=tuple(self.stop_token_ids),
            ignore_eos=self.ignore_eos,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            logprobs=logprobs,
            timeout=self.timeout,
        )


class CompletionRequest(_Request):
    prompt: Annotated[
        str | list[str] | list[int] | list[list[int]],
        _expecting("a text, a list of texts, a list of token ids, or a list of such lists"),
    ]
    max_tokens: Annotated[int, Field(ge=1)] = 16
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: Literal[False] = False
    suffix: Literal[""] = ""
    best_of: Literal[1] = 1


class TextPart(_Object):
    type: Literal["text"]
    text: str


class Message(_Object):
    role: str
    content: Annotated[str | list[TextPart], _expecting('a text, or a list of {"type": "text", "text": …}')]
    name: str | None = None

    def plain(self) -> dict[str, str]:
        """With its content as one text."""
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": self.role, "content": content} | ({} if self.name is None else {"name": self.name})


class TextFormat(_Object):
    type: Literal["text"]


class ChatRequest(_Request):
    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: TextFormat | None = None
    tool_choice: Literal["none"] = "none"
    parallel_tool_calls: bool = True
