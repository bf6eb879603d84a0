"""The one mistake class of the scalar lab; scripts/scalar.py prints its sentence and exits with 2.

The lab imports nothing of ours, so it has its own: what was seen, what the limit is, what to do.
"""


class ScalarError(Exception):
    """Something the caller gave us can't be used; the message says what, why and the remedy."""
