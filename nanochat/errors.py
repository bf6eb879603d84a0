"""The one base class for mistakes that the person at the keyboard can mend.

Every module raises a subclass named after what went wrong, with a message in one sentence: what was
seen, what the limit is, what to do. nanochat/cli.py prints that sentence and exits with 2.
"""


class UserError(Exception):
    """Something the caller gave us can't be used; the message says what, why and the remedy."""
