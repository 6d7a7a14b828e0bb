"""InfiniCore's ABI: the functions that must be exported, and the check that our operators have its signatures."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from infiniop.schema import Operator

from . import signature


class AbiError(RuntimeError):
    """An operator file whose C functions are not InfiniCore's."""


@dataclass(frozen=True)
class Function:
    """One exported C function; `params` as C text."""

    name: str
    header: str
    params: tuple[str, ...]

    @property
    def types(self) -> tuple[str, ...]:
        return tuple(signature.type_of(p) for p in self.params)


@dataclass(frozen=True)
class Abi:
    functions: Mapping[str, Function]
    enums: Mapping[str, Mapping[str, int]]

    @staticmethod
    def load(root: Path) -> Abi:
        data = json.loads((root / "operators" / "infinicore_abi.json").read_text(encoding="utf-8"))
        functions = {
            name: Function(name, f["header"], tuple(re.sub(r"\s*\*\s*", " *", p).strip() for p in f["params"]))
            for name, f in data["functions"].items()
        }
        return Abi(functions, data["enums"])

    def operator_functions(self) -> dict[str, Function]:
        """Those of the operator headers."""
        return {n: f for n, f in self.functions.items() if f.header.startswith("infiniop/ops/")}

    def check(self, operators: Iterable[Operator]) -> None:
        """Raises `AbiError` for the first function whose types differ from InfiniCore's."""
        for operator in operators:
            for function in signature.functions(operator):
                upstream = self.functions.get(function.name)
                if upstream is None and not operator.own:
                    raise AbiError(f"{operator.name}: {function.name} is not in the ABI; mark the operator `own`")
                if upstream is not None and upstream.types != function.types:
                    raise AbiError(
                        f"{operator.name}: {function.name} takes ({', '.join(function.types)}), "
                        f"the ABI says ({', '.join(upstream.types)})"
                    )
