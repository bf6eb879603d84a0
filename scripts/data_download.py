"""Fetch parquet shards of a training set from the Hugging Face hub.

Goes on where an earlier call stopped, fetches nothing twice, and fails when a shard is missing.
HF_ENDPOINT names a mirror, HF_TOKEN a login for datasets that need one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from nanochat.cli import parse, print_json, run
from nanochat.dataset import HUB, NoSuchDataset, find_hub_dataset
from nanochat.download import Hub, RemoteFile, download_all
from nanochat.download_screen import on_screen


@dataclass(frozen=True)
class Settings:
    dataset: str = "climbmix"
    """climbmix, fineweb-edu or fineweb-edu-100b, or its repository on the hub."""
    shards: int = 8
    """Training shards to have, about 100 MB each (fineweb-edu: 2 GB); -1 for all of them."""
    workers: int = 4
    """Files fetched at the same time."""
    json: bool = False
    """Print what was done as JSON on the last line."""


def main(argv: Sequence[str] | None = None) -> int | None:
    settings = parse(Settings, argv, "nanochat data-download", __doc__)
    dataset = find_hub_dataset(settings.dataset)
    if dataset is None:
        names = ", ".join(known.name for known in HUB)
        raise NoSuchDataset(f"no dataset {settings.dataset!r} on our list: give one of {names}")
    last = dataset.shards - 1  # for validation, always fetched
    if settings.shards == 0 or not -1 <= settings.shards <= last:
        raise NoSuchDataset(
            f"{dataset.name} has 1 to {last} training shards (-1 for all), not {settings.shards}"
        )
    count = last if settings.shards == -1 else settings.shards
    files = [
        RemoteFile(dataset.repository, dataset.path_in_repository(n), dataset.local_file(n))
        for n in [last, *range(count)]
    ]
    with on_screen() as report:
        fetched = download_all(files, Hub.from_environment(), settings.workers, report)
    folder = files[0].destination.parent
    print(f"{dataset.name}: {fetched} fetched, {len(files) - fetched} were there, in {folder}")
    if settings.json:
        print_json(
            {
                "dataset": dataset.name,
                "fetched": fetched,
                "files": len(files),
                "folder": str(folder),
            }
        )
    return None


if __name__ == "__main__":
    run(main)
