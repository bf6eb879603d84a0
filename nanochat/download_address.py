"""One file from an address that is not on the hub, through the hub's door and without its token.

Called by core_eval_bundle.py and tasks/catalogue.py. What download.py promises holds: resumed,
never half, refused when the size is wrong. Not covered: servers that give no size and no hash.
"""

from pathlib import Path

from nanochat.download import Hub, RemoteFile, Report, download_all


class FixedAddress(RemoteFile):
    """A file whose `repository` is its whole address."""

    def url(self, hub: Hub) -> str:
        return self.repository


def fetch_address(url: str, place: Path, hub: Hub, report: Report | None = None) -> int:
    """Fetch `url` to `place` unless it is there; returns how many files came, 0 or 1."""
    plain = Hub(attempts=hub.attempts, backoff_s=hub.backoff_s, timeout_s=hub.timeout_s)
    return download_all([FixedAddress(url, place.name, place)], plain, 1, report)
