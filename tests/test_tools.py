"""The calculator against Python's own fractions, and everything that is no arithmetic."""

import ast
import operator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.tools import MAX_DEPTH, MAX_LENGTH, calculate

OPERATIONS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def slow_truth(source: str) -> Fraction:
    """The value by Python's grammar, every number read as an exact fraction."""

    def value(node: ast.AST) -> Fraction:
        if isinstance(node, ast.UnaryOp):
            return -value(node.operand)
        if isinstance(node, ast.BinOp):
            return OPERATIONS[type(node.op)](value(node.left), value(node.right))
        return Fraction(ast.get_source_segment(source, node))

    return value(ast.parse(source, mode="eval").body)


numbers = st.one_of(
    st.integers(0, 10**6).map(str),
    st.decimals(0, 1000, places=3).map(lambda d: f"{d:f}"),
)
expressions = st.recursive(
    numbers,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["+", "-", " * ", "*", "/"]), inner).map("".join),
        inner.map(lambda e: f"({e})"),
        inner.map(lambda e: f"-{e}"),
    ),
    max_leaves=8,
)


@given(expressions)
@settings(max_examples=300, deadline=None)
def test_any_expression_has_the_value_that_exact_fractions_give(source):
    result = calculate(source)
    try:
        truth = slow_truth(source)
    except ZeroDivisionError:
        assert result is None
        return
    if len(source) > MAX_LENGTH or abs(truth) >= 10**30:
        assert result is None
    elif truth.denominator == 1:
        assert result == str(truth.numerator)
    else:
        assert abs(Fraction(result) - truth) <= abs(truth) * Fraction(1, 10**11)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("48*7", "336"),
        ("2+3*4", "14"),
        ("(2+3)*4", "20"),
        ("10-4-3", "3"),
        ("100/10/5", "2"),
        ("0.1+0.2", "0.3"),
        ("7/2", "3.5"),
        ("1/3", "0.333333333333"),
        ("2--3", "5"),
        ("-(1-4)", "3"),
        ("0*-5", "0"),
        (".5*4", "2"),
        ("1,234+1", "1235"),
        (" 6 * 7 \n", "42"),
        ("99999999999999*9", "899999999999991"),
        ("2.50", "2.5"),
        ("100/8*1000000", "12500000"),
    ],
)
def test_worked_cases(expression, value):
    assert calculate(expression) == value


@pytest.mark.parametrize(
    "nonsense",
    [
        "", " ", "1/0", "1/(2-2)", "2**9", "2//3", "5%2", "(1", "1)", "()", "1 2", "2(3)", "*3",
        "3*",
        "+3", "1e5", "0x10", "1_000", "12,34", "1..2", ".", "abs(3)", "'a'.count('a')", "٣+٤", "²",
        "__import__('os')", "1;2", "1=1", "inf", "nan", "\x00", "1" * (MAX_LENGTH + 1),
        "(" * (MAX_DEPTH + 1) + "1" + ")" * (MAX_DEPTH + 1), "9" * 31, "*".join(["999999"] * 9),
    ],
)  # fmt: skip
def test_nonsense_is_answered_with_none(nonsense):
    assert calculate(nonsense) is None


@given(st.text(max_size=40))
@settings(max_examples=200, deadline=None)
def test_no_text_at_all_makes_it_raise(text):
    assert calculate(text) is None or isinstance(calculate(text), str)


def test_the_limits_themselves_are_allowed():
    assert calculate("(" * MAX_DEPTH + "1" + ")" * MAX_DEPTH) == "1"
    assert calculate("-" * (MAX_LENGTH - 1) + "1") == "-1"
    assert calculate("9" * 30) == "9" * 30


def test_threads_do_not_disturb_each_other():
    sums = [f"{a}*{b}-{a}/8" for a in range(20) for b in range(20)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(calculate, sums)) == [calculate(s) for s in sums]
