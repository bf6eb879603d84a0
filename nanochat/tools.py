"""The calculator behind a tool call: a small grammar read by hand, never Python's eval.

Called by engine.py when the model closes a call. Read: calculate -> Parser -> show.

    sum     = product (("+" | "-") product)*
    product = factor (("*" | "/") factor)*
    factor  = "-"* (number | "(" sum ")")
    number  = 12 | 1,234 | 0.5 | .5

Numbers are fractions, so 0.1 + 0.2 is 0.3. Nothing is shared between calls: any thread may call.
Not covered: powers, names, functions, percent.
"""

import re
from decimal import Context
from fractions import Fraction

MAX_LENGTH = 200  # characters; it also bounds the digits of every intermediate value
MAX_DEPTH = 20  # brackets inside brackets
MAX_MAGNITUDE = 10**30  # a result this large is refused
SIGNIFICANT_DIGITS = 12  # of a result that does not end, such as 1/3

TOKEN = re.compile(r"\s*(?:([0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?|[0-9]*\.?[0-9]+)|([-+*/()]))")


class Nonsense(Exception):
    """This is not arithmetic; `calculate` answers it with None."""


# @learn:inference.tool_use
def calculate(expression: str) -> str | None:
    """The value of an arithmetic expression as text, or None for anything else.

    Whole numbers are exact; others are exact up to 12 significant digits.

    >>> calculate("48*7"), calculate("-(1.5 + 2) / 4"), calculate("2/3")
    ('336', '-0.875', '0.666666666667')
    >>> calculate("1/0"), calculate("2**9"), calculate("__import__('os')")
    (None, None, None)
    """
    if len(expression) > MAX_LENGTH:
        return None
    try:
        return show(Parser(expression).whole())
    except (Nonsense, ZeroDivisionError):
        return None


def show(value: Fraction) -> str:
    """A fraction as people write it: no exponent, no trailing zeros.

    >>> show(Fraction(6, 2)), show(Fraction(1, 8)), show(Fraction(1, 10**9))
    ('3', '0.125', '0.000000001')
    """
    if abs(value) >= MAX_MAGNITUDE:
        raise Nonsense("too large")
    if value.denominator == 1:
        return str(value.numerator)
    rounded = Context(prec=SIGNIFICANT_DIGITS).divide(
        *(Context(prec=MAX_LENGTH * 2).create_decimal(n) for n in value.as_integer_ratio())
    )
    text = f"{rounded:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


class Parser:
    """Recursive descent over the tokens of one expression."""

    def __init__(self, expression: str) -> None:
        self.tokens = list(split(expression))
        self.at = 0

    def whole(self) -> Fraction:
        """The value of the whole text; a leftover, such as the bracket of "1)", is refused."""
        value = self.sum(depth=0)
        if self.at < len(self.tokens):
            raise Nonsense(f"unexpected {self.tokens[self.at]}")
        return value

    def sum(self, depth: int) -> Fraction:
        """Terms added and subtracted from left to right."""
        value = self.product(depth)
        while sign := self.take("+-"):
            term = self.product(depth)
            value = value + term if sign == "+" else value - term
        return value

    def product(self, depth: int) -> Fraction:
        """Factors multiplied and divided from left to right."""
        value = self.factor(depth)
        while sign := self.take("*/"):
            term = self.factor(depth)
            value = value * term if sign == "*" else value / term
        return value

    def factor(self, depth: int) -> Fraction:
        """A number or a bracket, with any signs before it."""
        if depth > MAX_DEPTH:
            raise Nonsense("too many brackets")
        sign = 1
        while self.take("-"):
            sign = -sign
        if self.take("("):
            value = self.sum(depth + 1)
            if not self.take(")"):
                raise Nonsense("a bracket is left open")
            return sign * value
        token = self.tokens[self.at] if self.at < len(self.tokens) else None
        if not isinstance(token, Fraction):
            raise Nonsense("a number is missing")
        self.at += 1
        return sign * token

    def take(self, signs: str) -> str | None:
        """The next token if it is one of `signs`, else None and nothing is read."""
        token = self.tokens[self.at] if self.at < len(self.tokens) else None
        if not isinstance(token, str) or token not in signs:
            return None
        self.at += 1
        return token


def split(expression: str) -> list[Fraction | str]:
    """Text -> numbers and signs. "1,234" is one number; "12,34" is refused.

    >>> split("2*(1,000 - .5)")
    [Fraction(2, 1), '*', '(', Fraction(1000, 1), '-', Fraction(1, 2), ')']
    """
    tokens: list[Fraction | str] = []
    text, at = expression.rstrip(), 0
    while at < len(text):
        found = TOKEN.match(text, at)
        if not found:
            raise Nonsense(f"{text[at]!r} is not arithmetic")
        number, sign = found.groups()
        tokens.append(Fraction(number.replace(",", "")) if number else sign)
        at = found.end()
    return tokens
