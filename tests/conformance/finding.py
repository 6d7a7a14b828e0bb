"""`python finding.py BACKEND OP` prints what the kit says first against an operator of a backend, or nothing."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def first_finding(backend: str, op: str, patterns: Sequence[str] = (), large: bool = False) -> str | None:
    """Runs the operator's cases, quick ones first, until one of them fails; None: all pass."""
    from infiniop.conformance.call import Declined
    from infiniop.conformance.cases import Found, Options
    from infiniop.conformance.session import Session

    session = Session.of(backend, [op], patterns, None, Options(large=large))
    for case in sorted(session.cases(session.operators[0]), key=lambda case: case.kind not in ("sample", "error")):
        assert case.operator == op, f"{case.operator}: {case.name} is about another operator than {op}"
        try:
            wrong = case.run()
        except Declined:
            continue
        except Found as found:
            return f"{found.name}: {found.wrong[0]}".splitlines()[0]
        if wrong:
            return f"{case.name}: {wrong[0]}".splitlines()[0]
    return None


if __name__ == "__main__":
    print(first_finding(*sys.argv[1:]) or "")
