"""The one mistake class of the code map; scripts/map.py prints its sentence and exits with 2.

The map imports nothing of ours, so it has its own: what was seen, what the limit is, what to do.
"""


class MapError(Exception):
    """Something the caller gave us can't be used; the message says what, why and the remedy."""
