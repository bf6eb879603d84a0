"""Parts of a file in memory by HTTP range requests, so that a viewer fetches one tensor of many.

Called by bridge_app.py. One range a request; `bytes=5-9`, `bytes=5-` and `bytes=-5`.
Read: ranged -> span_of.
"""

import re

from starlette.responses import Response

from nanochat.serve.errors import ApiError

KIND = "application/octet-stream"


class BadRange(ApiError):
    """The part that was asked for does not exist."""

    status = 416
    code = "bad_range"

    def __init__(self, message: str, size: int) -> None:
        super().__init__(message)
        self.size = size

    def headers(self) -> dict[str, str]:
        return {"Content-Range": f"bytes */{self.size}"}


def ranged(data: bytes, wish: str | None) -> Response:
    """The whole, or the part that the Range header wishes for."""
    headers = {"Accept-Ranges": "bytes"}
    if wish is None:
        return Response(data, media_type=KIND, headers=headers)
    first, last = span_of(wish, len(data))
    headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
    return Response(data[first : last + 1], status_code=206, media_type=KIND, headers=headers)


def span_of(wish: str, size: int) -> tuple[int, int]:
    """First and last byte of the wish. Raises BadRange.

    >>> span_of("bytes=5-9", 20), span_of("bytes=15-", 20), span_of("bytes=-3", 20)
    ((5, 9), (15, 19), (17, 19))
    """
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", wish.strip())
    if found is None or not (found[1] or found[2]):
        raise BadRange(f"Range {wish!r:.60}: send one range, such as bytes=0-99", size)
    if found[1]:
        first, last = int(found[1]), min(int(found[2] or size - 1), size - 1)
    else:
        first, last = max(0, size - int(found[2])), size - 1
    if first > last:
        raise BadRange(f"Range {wish!r:.60}: the file has {size} bytes", size)
    return first, last
