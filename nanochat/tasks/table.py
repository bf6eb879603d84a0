"""Rows of parquet files by number, read when asked for; and where on the hub the files are.

Called by the tasks that come from the hub. Files lie in <data>/tasks/<name>/ and are fetched by
`nanochat task-download` through nanochat/download.py, the door that training data uses too.
Read: HubFiles -> fetch_hub_files -> Table.
"""

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from nanochat.corpus_files import UnreadableCorpus, open_parquet
from nanochat.dataset import DataMissing
from nanochat.download import Hub, RemoteFile, Report, download_all
from nanochat.paths import data_dir
from nanochat.tasks.task import BrokenTask

KEPT_BYTES = 2 << 30  # row groups kept in memory: a shuffled mixture comes back to all of them


@dataclass(frozen=True)
class HubFiles:
    """The parquet files of one split of a dataset on the hub."""

    name: str  # folder under <data>/tasks
    repository: str
    paths: tuple[str, ...]

    def local(self) -> list[Path]:
        """Where the files are kept: their path in the repository, with - for /."""
        folder = data_dir("tasks") / self.name
        return [folder / path.replace("/", "-") for path in self.paths]

    def remote(self) -> list[RemoteFile]:
        """The files as the download wants them."""
        return [
            RemoteFile(self.repository, path, place)
            for path, place in zip(self.paths, self.local(), strict=True)
        ]

    def table(self) -> "Table":
        """The rows. Raises DataMissing with the command that fetches them."""
        missing = [path for path in self.local() if not path.is_file()]
        if missing:
            raise DataMissing(
                f"{self.name} is not in {missing[0].parent} ({len(missing)} of {len(self.paths)} "
                f"files are missing): fetch it with `nanochat task-download --tasks {self.name}`"
            )
        return Table(self.local())


def fetch_hub_files(
    sets: Sequence[HubFiles], hub: Hub, workers: int = 4, report: Report | None = None
) -> int:
    """Fetch what is missing of all these files; returns how many that were."""
    return download_all([file for one in sets for file in one.remote()], hub, workers, report)


class Table:
    """The rows of some parquet files as one list. Footers are read at once, rows when needed."""

    def __init__(self, files: Sequence[Path], kept_bytes: int = KEPT_BYTES) -> None:
        self.groups: list[tuple[Path, int]] = []
        sizes = []
        for path in files:
            with open_parquet(path) as file:
                for number in range(file.num_row_groups):
                    self.groups.append((path, number))
                    sizes.append(file.metadata.row_group(number).num_rows)
        self.starts = [0, *accumulate(sizes)]
        self.kept_bytes = kept_bytes
        self.kept: OrderedDict[int, pyarrow.Table] = OrderedDict()

    def __len__(self) -> int:
        return self.starts[-1]

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Row `index` as a dictionary of plain values."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        number = bisect_right(self.starts, index) - 1
        return self._group(number).slice(index - self.starts[number], 1).to_pylist()[0]

    def where(self, index: int) -> str:
        """The file and row of number `index`, for a message."""
        number = bisect_right(self.starts, index) - 1
        return f"{self.groups[number][0]}, row {index}"

    def _group(self, number: int) -> pyarrow.Table:
        """One row group; the ones used last stay in memory up to kept_bytes."""
        if number in self.kept:
            self.kept.move_to_end(number)
            return self.kept[number]
        path, group = self.groups[number]
        try:
            with open_parquet(path) as file:
                table = file.read_row_group(group, use_threads=False)
        except (pyarrow.ArrowException, OSError) as error:
            raise UnreadableCorpus(
                f"row group {group} of {path} can't be read ({error}): delete the file and fetch "
                "it again"
            ) from error
        self.kept[number] = table
        while len(self.kept) > 1 and sum(t.nbytes for t in self.kept.values()) > self.kept_bytes:
            self.kept.popitem(last=False)
        return table


def check_columns(table: Table, wanted: Sequence[str]) -> None:
    """Before the first row: does the file have the columns of the task's schema?"""
    path = table.groups[0][0] if table.groups else None
    names = parquet.read_schema(path).names if path else []
    missing = [name for name in wanted if name not in names]
    if missing:
        raise BrokenTask(
            f"{path or 'the file'} has no column {', '.join(missing)} (it has "
            f"{', '.join(names) or 'no rows'}): delete it and run `nanochat task-download`"
        )
