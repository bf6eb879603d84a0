"""Downloads on the screen: one line a file, with its share, speed and time left.

Called by scripts/data_download.py, task_download.py and base_eval.py around download_all:
    with on_screen() as report: download_all(files, hub, workers, report)
"""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from nanochat.download import RemoteFile, Report


@contextmanager
def on_screen() -> Iterator[Report]:
    """A Report that draws; without a terminal it prints the finished lines only."""
    columns = ("{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn()) as progress:
        lines: dict[str, TaskID] = {}

        def report(file: RemoteFile, here: int, size: int | None) -> None:
            if file.path not in lines:
                lines[file.path] = progress.add_task(file.destination.name, total=size)
            progress.update(lines[file.path], completed=here, total=size)

        yield report
