"""`registry.yaml`: the ABI lock of the operators, and the built-in backends."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from infiniop.schema import Operator

_HEAD = """\
# Two tables. `operators` is the ABI lock, written by `infiniop gen`: a schema whose hash changes needs a new version
# (`infiniop gen --bump NAME`). `backends` are the built-in ones; edit it by hand.
"""


class LockError(RuntimeError):
    """A schema that changed without a new version."""


@dataclass(frozen=True)
class Registry:
    operators: Mapping[str, Mapping[str, object]]
    backends: Mapping[str, Mapping[str, object]]

    @staticmethod
    def load(path: Path) -> Registry:
        data = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        return Registry(data.get("operators") or {}, data.get("backends") or {})

    def version(self, name: str) -> int:
        return int(self.operators[name]["version"])  # type: ignore[call-overload]

    def updated(self, operators: Mapping[str, Operator], bump: Sequence[str] | None) -> Registry:
        """With new operators added. A changed schema raises `LockError` unless it is bumped (`None`: no check)."""
        for name in bump or ():
            if name not in operators:
                raise LockError(f"--bump {name}: there is no operator of that name")
        rows = {n: dict(r) for n, r in self.operators.items() if n in operators}
        next_id = max((int(r["id"]) for r in self.operators.values()), default=0) + 1  # type: ignore[call-overload]
        for name, operator in operators.items():
            digest = schema_hash(operator)
            if name not in rows:
                rows[name] = {"id": next_id, "version": 1, "hash": digest}
                next_id += 1
            elif rows[name]["hash"] != digest and bump is not None:
                if name not in bump:
                    raise LockError(
                        f"the schema of {name} changed since version {rows[name]['version']}: "
                        f"run `infiniop gen --bump {name}`"
                    )
                rows[name] |= {"version": self.version(name) + 1, "hash": digest}
        return replace(self, operators=rows)

    def text(self) -> str:
        lines = [_HEAD + "operators:"]
        lines += [
            f'  {name}: {{id: {r["id"]}, version: {r["version"]}, hash: "{r["hash"]}"}}'
            for name, r in sorted(self.operators.items(), key=lambda item: int(item[1]["id"]))  # type: ignore[call-overload]
        ]
        tail = yaml.safe_dump({"backends": dict(self.backends)}, sort_keys=False, default_flow_style=False)
        return "\n".join(lines) + "\n" + tail


def schema_hash(operator: Operator) -> str:
    """Over everything that a kernel or a caller depends on; documentation and samples are left out."""
    schema = {
        "symbol": operator.symbol,
        "tensors": [
            [t.name, t.role.value, t.shape, t.dtype, t.strides.value, t.optional, t.rank, t.null_at_run, t.opaque]
            for t in operator.tensors
        ],
        "dtypes": {name: [d.name for d in allowed] for name, allowed in operator.dtypes.items()},
        "attrs": [[a.name, a.ctype, a.at, a.length] for a in operator.attrs],
        "constraints": [[c.expr, int(c.status), c.at] for c in operator.constraints],
        "aliases": [list(a) for a in operator.aliases],
        "group_rank": dict(operator.group_rank),
        "workspace": operator.workspace,
        "shares": operator.shares,
    }
    return hashlib.sha256(json.dumps(schema, sort_keys=True).encode()).hexdigest()[:16]
