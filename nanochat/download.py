"""Files from the Hugging Face hub: in parallel, resumable, checked against the hub's own hashes.

A file arrives as NAME.part and gets its name only when its size and hash are right, so a file that
has its name is whole. A cut connection or a killed command leaves the .part, and the next attempt
asks for the bytes that are missing. Called by scripts/data_download.py and by whoever needs a file
of a dataset. Read: Hub -> download_all -> fetch -> append_missing_bytes -> expected_of.

What the hub does (https://huggingface.co/docs/hub): `resolve` answers a large file with a redirect
to a CDN, and that answer carries X-Linked-ETag (SHA-256) and X-Linked-Size; small files come
directly, their ETag is git's blob hash (SHA-1).
Not covered: the Xet protocol, and two commands that fetch one file at once (the hash tells).
"""

import email.utils
import hashlib
import os
import random
import re
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import NamedTuple

import httpx

from nanochat.atomic import sync_folder
from nanochat.errors import UserError

CHUNK_BYTES = 1 << 20
TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)
LONGEST_WAIT_S = 120.0


class DownloadFailed(UserError):
    """A file could not be fetched; what came so far is kept."""


class Transient(Exception):
    """This attempt failed, the next may not; `after_s` is what the server asked us to wait."""

    def __init__(self, reason: str, after_s: float | None = None):
        super().__init__(reason)
        self.after_s = after_s


class WrongContent(Exception):
    """All bytes came, and they are not the file's."""


@dataclass(frozen=True)
class Hub:
    """Where to ask and how patiently."""

    endpoint: str = "https://huggingface.co"
    token: str | None = field(default=None, repr=False)  # never shown, sent to the endpoint only
    attempts: int = 5  # in a row that bring not one new byte
    backoff_s: float = 1.0  # before the second attempt; doubles each time
    timeout_s: float = 30.0  # without a byte from the server

    @classmethod
    def from_environment(cls) -> "Hub":
        """HF_ENDPOINT and HF_TOKEN, as the hub's own tools read them."""
        endpoint = (os.environ.get("HF_ENDPOINT") or cls.endpoint).rstrip("/")
        if not endpoint.startswith(("http://", "https://")):
            raise DownloadFailed(f"HF_ENDPOINT is {endpoint!r}: it must begin with https://")
        return cls(endpoint=endpoint, token=os.environ.get("HF_TOKEN") or None)


class RemoteFile(NamedTuple):
    """One file of a dataset repository, and where it goes."""

    repository: str  # karpathy/climbmix-400b-shuffle
    path: str  # shard_00000.parquet
    destination: Path
    revision: str = "main"

    def url(self, hub: Hub) -> str:
        return f"{hub.endpoint}/datasets/{self.repository}/resolve/{self.revision}/{self.path}"

    @property
    def part(self) -> Path:
        return self.destination.with_name(self.destination.name + ".part")


class Expected(NamedTuple):
    """What the server says the whole file is; None where it does not say."""

    size: int | None
    digest: str | None


# (file, bytes of it that are here, bytes in all or None), called from several threads
Report = Callable[[RemoteFile, int, int | None], None]


def download_all(
    files: Sequence[RemoteFile], hub: Hub, workers: int = 4, report: Report | None = None
) -> int:
    """Fetch what is not there yet and return how many files that were.

    Raises DownloadFailed when any is missing at the end, after all others were tried.
    """
    missing = [file for file in files if not file.destination.is_file()]
    report = report or (lambda file, here, size: None)
    stop, failed = Event(), []
    timeout = httpx.Timeout(hub.timeout_s)
    with (
        httpx.Client(follow_redirects=True, timeout=timeout) as client,
        ThreadPoolExecutor(max(workers, 1), thread_name_prefix="download") as pool,
    ):
        running = [pool.submit(fetch, file, hub, client, report, stop) for file in missing]
        try:
            for done in as_completed(running):
                try:
                    done.result()
                except DownloadFailed as error:
                    failed.append(str(error))
        except BaseException:  # Ctrl-C, a full disk: let no other thread go on
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    if failed:
        raise DownloadFailed(
            f"{len(failed)} of {len(files)} files are missing; run the same command again to go "
            "on where it stopped: " + "; ".join(sorted(failed))
        )
    return len(missing)


# @learn:data.resumable_downloads
def fetch(file: RemoteFile, hub: Hub, client: httpx.Client, report: Report, stop: Event) -> None:
    """One file, whole and checked. Raises DownloadFailed."""
    file.destination.parent.mkdir(parents=True, exist_ok=True)
    failures, anew, furthest = 0, False, size_of(file.part)
    while True:
        if stop.is_set():
            raise DownloadFailed(f"{file.destination.name}: stopped")
        try:
            expected = append_missing_bytes(file, hub, client, report, stop)
            check(file.part, expected)
            break
        except WrongContent as error:
            file.part.unlink()  # perhaps the part was of an older version: once more from zero
            if anew:
                raise DownloadFailed(f"{file.url(hub)}: {error}, twice") from error
            failures, anew, furthest = 0, True, 0
        except (Transient, httpx.HTTPError) as error:
            # a new byte is progress, bytes that a server without ranges sends again are not
            failures = 1 if size_of(file.part) > furthest else failures + 1
            furthest = max(furthest, size_of(file.part))
            reason = str(error) or type(error).__name__
            if failures >= hub.attempts:
                raise DownloadFailed(f"{file.url(hub)}: {reason} ({failures} attempts)") from error
            stop.wait(pause_s(error, failures, hub, file))
    with open(file.part, "rb+") as whole:
        os.fsync(whole.fileno())
    os.replace(file.part, file.destination)
    sync_folder(file.destination.parent)


# @learn:data.resumable_downloads
def append_missing_bytes(
    file: RemoteFile, hub: Hub, client: httpx.Client, report: Report, stop: Event
) -> Expected:
    """One request for what the .part lacks, written as it comes."""
    here = size_of(file.part)
    headers = {"Accept-Encoding": "identity"}  # bytes of the file, or positions mean nothing
    if here:
        headers["Range"] = f"bytes={here}-"
    if hub.token:
        headers["Authorization"] = f"Bearer {hub.token}"  # httpx drops it when the host changes
    with client.stream("GET", file.url(hub), headers=headers) as response:
        expected = expected_of(response)
        if response.status_code == 416 and here:
            if expected.size != here:  # longer than the file: it is of another version
                file.part.unlink()
                raise Transient("the part on disk is no part of this file")
            return expected
        refuse(response, file, hub)
        if response.status_code != 206 or not starts_at(response, here):
            here = 0  # the server ignored the range and sends the file from its beginning
            if response.status_code == 206:
                file.part.unlink()
                raise Transient("the server sent another range than it was asked for")
        check_room(file, expected, here)
        with open(file.part, "ab" if here else "wb") as part:
            for chunk in response.iter_raw():  # as it comes: nothing is lost by a cut
                part.write(chunk)
                here += len(chunk)
                report(file, here, expected.size)
                if stop.is_set():
                    raise DownloadFailed(f"{file.destination.name}: stopped")
    return expected


def expected_of(response: httpx.Response) -> Expected:
    """Size and hash, from the hub's own answers: the CDN's ETag is something else."""
    of_the_hub = [*response.history, response][0]
    etag = of_the_hub.headers.get("x-linked-etag")
    if etag is None and not response.history:
        etag = of_the_hub.headers.get("etag")
    match = re.fullmatch(r'(?:W/)?"?([0-9a-f]{64}|[0-9a-f]{40})"?', etag or "")
    size = of_the_hub.headers.get("x-linked-size")
    if size is None and "content-range" in response.headers:
        size = response.headers["content-range"].rpartition("/")[2]
    if size is None and response.status_code == 200:
        size = response.headers.get("content-length")
    known = size is not None and size.isdigit()
    return Expected(int(size) if known and size else None, match[1] if match else None)


def refuse(response: httpx.Response, file: RemoteFile, hub: Hub) -> None:
    """Raise for every status that is not the file."""
    status = response.status_code
    if status in (200, 206):
        return
    if status in TRY_AGAIN:
        raise Transient(f"the server answered {status}", retry_after_s(response))
    why = {
        401: "the dataset needs a login: set HF_TOKEN to a token of yours",
        403: "your HF_TOKEN may not read it: accept the dataset's terms on its page",
        404: "there is no such file",
    }.get(status, "the server refused")
    raise DownloadFailed(f"{file.url(hub)}: {why} (status {status})")


def starts_at(response: httpx.Response, position: int) -> bool:
    return response.headers.get("content-range", "").startswith(f"bytes {position}-")


def check_room(file: RemoteFile, expected: Expected, here: int) -> None:
    """Refuse a file that the disk has no room for."""
    free = shutil.disk_usage(file.part.parent).free
    if expected.size is not None and expected.size - here > free:
        raise DownloadFailed(
            f"{file.destination.name} needs {(expected.size - here) / 1e6:,.0f} MB, "
            f"{free / 1e6:,.0f} MB are free in {file.part.parent}: free some space"
        )


def check(part: Path, expected: Expected) -> None:
    """Compare the finished .part with what the hub said of it."""
    size = size_of(part)
    if expected.size is not None and size < expected.size:
        raise Transient(f"only {size:,} of {expected.size:,} bytes came")
    if expected.size is not None and size > expected.size:
        raise WrongContent(f"{size:,} bytes came where {expected.size:,} were announced")
    if expected.digest and digest_of(part, expected.digest) != expected.digest:
        raise WrongContent("the checksum is wrong")


def digest_of(path: Path, like: str) -> str:
    """SHA-256, or where `like` has 40 digits git's blob hash: SHA-1 behind a header."""
    digest = hashlib.sha256()
    if len(like) == 40:
        digest = hashlib.sha1(f"blob {size_of(path)}\0".encode(), usedforsecurity=False)
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def retry_after_s(response: httpx.Response) -> float | None:
    """The Retry-After header, seconds or a date, as seconds from now."""
    value = response.headers.get("retry-after", "")
    if value.isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def pause_s(error: Exception, failures: int, hub: Hub, file: RemoteFile) -> float:
    """What the server asked for, else 1, 2, 4, ... times backoff_s, and up to half as much more.

    The extra part keeps the workers from coming back all at once; it is drawn from the file's name
    so that nothing here depends on an unseeded draw.
    """
    asked = getattr(error, "after_s", None)
    wait = hub.backoff_s * 2 ** (failures - 1) if asked is None else asked
    extra = random.Random(f"{file.path} {failures}").uniform(0, 0.5)
    return min(wait * (1 + extra), LONGEST_WAIT_S)
