"""The generator: committed files are fresh, wrong operator files are refused, the constraint language compiles."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infiniop import gen
from infiniop.gen import headers, lock, signature
from infiniop.gen.abi import Abi, AbiError
from infiniop.operators import all_operators
from infiniop.schema import Attr, expr, shapes

OPERATORS = all_operators()
ROOT = gen.source_root()
ABI = Abi.load(ROOT)


def test_committed_files_are_fresh():
    assert [str(p.relative_to(ROOT)) for p in gen.check(ROOT)] == []


def test_check_reports_a_stale_and_an_orphaned_file(monkeypatch):
    files = gen.committed_files(ROOT)
    header = ROOT / "include" / "infiniop" / "ops" / "add.h"
    fresh = files.pop(header)
    monkeypatch.setattr(gen, "committed_files", lambda root: {**files, ROOT / "docs" / "support-matrix.md": "other"})
    stale = gen.check(ROOT)
    assert header in stale and ROOT / "docs" / "support-matrix.md" in stale
    assert fresh.startswith("/*")


@pytest.mark.parametrize("name", OPERATORS)
def test_everything_is_documented(name):
    operator = OPERATORS[name]
    tokens = {t.name for tensor in operator.tensors for a in shapes.parse(tensor.shape) for t in a}
    assert tokens == set(operator.axes), "axes documented and axes used"
    assert all(t.doc for t in operator.tensors), "a tensor has no doc"
    assert all(a.doc for a in operator.attrs), "an attribute has no doc"
    assert operator.semantics and operator.summary.endswith(".")


@pytest.mark.parametrize("name", OPERATORS)
def test_constraints_compile_and_name_arguments(name):
    operator = OPERATORS[name]
    known = {t.name for t in operator.tensors} | {a.name for a in operator.attrs}
    for constraint in operator.constraints:
        expr.parse(constraint.expr)
        assert constraint.argument in known


def test_a_signature_that_differs_from_the_abi_is_refused():
    add = dataclasses.replace(OPERATORS["add"], attrs=(Attr("alpha", "float", doc="scale"),))
    with pytest.raises(AbiError, match=r"infiniopCreateAddDescriptor takes .*float.*the ABI says"):
        ABI.check([add])
    with pytest.raises(AbiError, match="not in the ABI"):
        ABI.check([dataclasses.replace(OPERATORS["add"], symbol="Addition")])


def test_a_changed_schema_needs_a_new_version():
    registry = lock.Registry.load(ROOT / "registry.yaml")
    changed = {**OPERATORS, "add": dataclasses.replace(OPERATORS["add"], aliases=())}
    with pytest.raises(lock.LockError, match="--bump add"):
        registry.updated(changed, bump=[])
    with pytest.raises(lock.LockError, match="--bump fly: there is no operator of that name"):
        registry.updated(changed, bump=["add", "fly"])
    bumped = registry.updated(changed, bump=["add"])
    assert bumped.version("add") == registry.version("add") + 1
    assert bumped.operators["add"]["id"] == registry.operators["add"]["id"]


def test_ids_are_stable_when_an_operator_is_added():
    registry = lock.Registry.load(ROOT / "registry.yaml")
    more = registry.updated({**OPERATORS, "aaa_new": dataclasses.replace(OPERATORS["add"], name="aaa_new")}, bump=[])
    ids = [row["id"] for row in more.operators.values()]
    assert len(set(ids)) == len(ids) and more.operators["aaa_new"]["id"] == max(ids)
    assert all(more.operators[n] == row for n, row in registry.operators.items())


def test_documentation_and_samples_are_outside_the_lock():
    add = OPERATORS["add"]
    assert lock.schema_hash(add) == lock.schema_hash(dataclasses.replace(add, summary="Other.", semantics=()))


def test_every_abi_function_is_declared_in_its_header():
    files = headers.generate(OPERATORS, ABI)
    for function in ABI.operator_functions().values():
        assert f" {function.name}(" in files[function.header]


def test_random_sample_batch_shares_getter_and_destroy():
    names = [s.name for s in signature.functions(OPERATORS["random_sample_batch"])]
    assert names == ["infiniopCreateRandomSampleBatchDescriptor", "infiniopRandomSampleBatch"]


def test_check_on_the_command_line():
    command = [sys.executable, "-m", "infiniop.gen", "--check"]
    assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 0


# ---- the constraint language ---------------------------------------------------------------------------------------

NAMES = expr.CppNames({"a": 0, "b": 1}, {"g": 0}, {"k": 0}, frozenset(), {"T": 0}, {"x": 0})
ATOMS = st.sampled_from(["a", "b", "k", "7", "0"])
NUMBERS = st.recursive(
    ATOMS,
    lambda s: st.tuples(s, st.sampled_from(["+", "-", "*", "//", "%"]), s).map(lambda t: f"({' '.join(t)})"),
    max_leaves=4,
)
TESTS = st.tuples(NUMBERS, st.sampled_from(["==", "!=", "<", "<=", ">", ">="]), NUMBERS).map(" ".join)


@given(st.lists(st.tuples(TESTS, st.sampled_from(["and", "or", "and not"])), min_size=1, max_size=3))
def test_generated_expressions_translate(parts):
    text = " ".join([*(f"{test} {joiner}" for test, joiner in parts[:-1]), parts[-1][0]])
    translated = expr.to_cpp(text, NAMES)
    assert translated.count("(") == translated.count(")")
    assert translated.count("e.axis[1]") == len(re.findall(r"\bb\b", text))


@pytest.mark.parametrize(
    "text", ["a ** 2 == 4", "__import__('os')", "unknown > 1", "a if b else k", "a is b", "rank(y)"]
)
def test_expressions_outside_the_language_are_refused(text):
    with pytest.raises(expr.ExpressionError):
        expr.to_cpp(text, NAMES)


def test_expressions_evaluate_like_the_schema_says():
    functions = {"rank": lambda t: {"x": 3}[t], "has": lambda t: True}
    assert expr.evaluate("a % b == 0 and rank(x) == 3", {"a": 6, "b": 3}, functions)
    assert expr.evaluate("T in (F16, BF16)", {"T": 19}, functions)
    assert expr.evaluate("min(a, b, 2) == 2 and has(x)", {"a": 6, "b": 3}, functions)


def test_constraints_mean_the_same_in_cpp(tmp_path):
    """Compiles a handful of expressions with the core's own helpers and compares them with Python's values."""
    texts = [
        "a % b == 0",
        "a // b * b <= a",
        "-k < a - b",
        "k in (1, 2, -3)",
        "not (a == b) or k > 0",
        "min(a, b) + max(a, k) == 5",
    ]
    values = [(6, 3, 1), (7, 2, -3), (0, 5, 2), (5, 5, -1), (1, 4, 4), (-3, 2, 2)]
    rows = ", ".join(f"{{{a}, {b}, {k}}}" for a, b, k in values)
    checks = "\n".join(f'        std::printf("%d", int({expr.to_cpp(t, NAMES)}));' for t in texts)
    (tmp_path / "main.cc").write_text(f"""
#include <algorithm>
#include <cstdio>
#include "schema_env.hpp"
using namespace infini;
int main() {{
    const int64_t rows[][3] = {{{rows}}};
    for (auto &row : rows) {{
        infiniopValue k = integer(row[2]);
        SchemaEnv e{{row, nullptr, nullptr, &k, nullptr, nullptr}};
{checks}
    }}
}}
""")
    include = [f"-I{ROOT / 'include'}", f"-I{ROOT / 'infiniop' / 'core'}"]
    subprocess.run(["g++", "-std=c++17", *include, "main.cc", "-o", "main"], cwd=tmp_path, check=True)
    printed = subprocess.run([str(tmp_path / "main")], capture_output=True, text=True, check=True).stdout
    expected = [expr.evaluate(t, {"a": a, "b": b, "k": k}, {}) for a, b, k in values for t in texts]
    assert printed == "".join(str(int(bool(e))) for e in expected)


def test_saturating_arithmetic(tmp_path):
    (tmp_path / "main.cc").write_text("""
#include "schema_env.hpp"
using namespace infini;
int main() {
    bool ok = add(INT64_MAX, INT64_C(1)) == INT64_MAX && sub(INT64_MIN, INT64_C(1)) == INT64_MIN &&
              mul(INT64_MAX, INT64_C(-2)) == INT64_MIN && floor_div(INT64_C(5), INT64_C(0)) == 0 &&
              floor_mod(INT64_C(-1), INT64_C(4)) == 3;
    return !ok;
}
""")
    include = [f"-I{ROOT / 'include'}", f"-I{ROOT / 'infiniop' / 'core'}"]
    flags = ["-std=c++17", "-fsanitize=undefined", "-fno-sanitize-recover"]
    subprocess.run(["g++", *flags, *include, "main.cc", "-o", "main"], cwd=tmp_path, check=True)
    assert subprocess.run([str(tmp_path / "main")]).returncode == 0


# ---- shapes --------------------------------------------------------------------------------------------------------

EXTENTS = st.lists(st.integers(0, 5), max_size=5)


@given(EXTENTS, st.integers(0, 9))
def test_groups_bind_and_reproduce(batch, d):
    axes, groups = {}, {}
    shapes.bind("*batch d", [*batch, d], axes, groups)
    assert shapes.shape_of("*batch d", axes, groups) == (*batch, d)
    with pytest.raises(shapes.Mismatch):
        shapes.bind("*batch d", [*batch, d + 1], axes, groups)


@given(EXTENTS, EXTENTS, st.integers(0, 9))
def test_a_group_of_fixed_rank_splits_a_shape(pre, post, n):
    axes, groups = {}, {}
    shapes.bind("*pre n *post", [*pre, n, *post], axes, groups, {"pre": len(pre)})
    assert groups == {"pre": tuple(pre), "post": tuple(post)} and axes == {"n": n}


def test_alternatives_go_by_rank():
    for extents, expected in [([2, 3], {"m": 2, "n": 3}), ([4, 2, 3], {"b": 4, "m": 2, "n": 3})]:
        axes: dict[str, int] = {}
        shapes.bind("m n | b m n", extents, axes, {})
        assert axes == expected
    with pytest.raises(shapes.Mismatch, match="rank 1"):
        shapes.bind("m n | b m n", [2], {}, {})
