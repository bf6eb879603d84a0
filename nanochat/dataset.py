"""One door to every text: TinyWorld, your own files, parquet shards from the Hugging Face hub.

    documents = open_documents("tinyworld", "train")     # or a path, or "climbmix", "fineweb-edu"
    for text in documents: ...                           # once through, in order
    for position, text in documents.stream(): ...        # for ever; `position` leads back here

The order of the files is the order of the documents: TinyWorld puts short stories first and relies
on it. Called by tok_train, tok_eval and dataloader.py; download.py fetches what HUB names.
Read: HUB -> open_documents -> Documents.stream.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate, islice
from pathlib import Path

from nanochat.corpus_files import SUFFIXES, Block, blocks_of, read_block
from nanochat.errors import UserError
from nanochat.paths import data_dir

SPLITS = ("train", "val")
HELD_OUT = 20  # where the files don't say which are for validation, every 20th document is

# (epoch, block, row): the row of the block that comes next
Position = tuple[int, int, int]


class NoSuchDataset(UserError):
    """The source is no name we know and no path that exists."""


class DataMissing(UserError):
    """A known dataset has not been made or downloaded yet."""


class EmptyCorpus(UserError):
    """There is not one document to read."""


@dataclass(frozen=True)
class HubDataset:
    """Parquet shards of one dataset repository on the hub. The last shard is for validation."""

    name: str
    repository: str
    pattern: str  # path of a shard in the repository, {} for its number
    shards: int
    column: str = "text"

    def path_in_repository(self, shard: int) -> str:
        return self.pattern.format(shard)

    def local_file(self, shard: int) -> Path:
        return data_dir(self.name) / self.path_in_repository(shard).rpartition("/")[2]

    def shards_here(self) -> list[int]:
        """The numbers of the shards that were downloaded whole."""
        folder = data_dir(self.name)
        names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        paths = map(self.path_in_repository, range(self.shards))
        return [n for n, path in enumerate(paths) if path.rpartition("/")[2] in names]


HUB = (
    HubDataset("climbmix", "karpathy/climbmix-400b-shuffle", "shard_{:05d}.parquet", 6543),
    HubDataset("fineweb-edu", "HuggingFaceFW/fineweb-edu", "sample/10BT/{:03d}_00000.parquet", 14),
    HubDataset(
        "fineweb-edu-100b", "karpathy/fineweb-edu-100b-shuffle", "shard_{:05d}.parquet", 1823
    ),
)


def find_hub_dataset(source: str) -> HubDataset | None:
    """By short name or by repository."""
    return next((d for d in HUB if source.lower() in (d.name, d.repository.lower())), None)


def open_documents(source: str | Path, split: str = "train", column: str = "text") -> "Documents":
    """Documents of one split. Raises NoSuchDataset, DataMissing, EmptyCorpus, UnreadableCorpus.

    `source`: "tinyworld", a dataset of HUB by name or repository, or a file or folder of .parquet,
    .jsonl and .txt. In a folder, files named val* or test* are the validation split; without any,
    every 20th document is.
    """
    assert split in SPLITS, f"{split!r} is neither train nor val"
    hub = find_hub_dataset(str(source))
    if str(source) == "tinyworld":
        files = sorted(data_dir("tinyworld").glob("*.parquet"))
        if not files:
            raise DataMissing(
                f"no TinyWorld in {data_dir('tinyworld')}: make it with `nanochat tinyworld-make`"
            )
        return local_documents("tinyworld", files, split, column)
    if hub:
        return hub_documents(hub, split)
    path = Path(source).expanduser()
    if not path.exists():
        names = ", ".join(["tinyworld", *(d.name for d in HUB)])
        raise NoSuchDataset(
            f"no data called {str(source)!r}: give {names}, or the path of a file or folder"
        )
    files = files_under(path)
    return local_documents(path.name, files, split, column)


def files_under(path: Path) -> list[Path]:
    """The file itself, or every file of a kind we read below a folder, in order of name."""
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix in SUFFIXES and p.is_file())
    else:
        files = [path] if path.suffix in SUFFIXES else []
    if not files:
        raise EmptyCorpus(f"{path} holds no file that ends in {', '.join(SUFFIXES)}")
    return files


def local_documents(name: str, files: list[Path], split: str, column: str) -> "Documents":
    """Files of one's own: val and test files are held out, else one document in many."""
    held_out = [f for f in files if f.stem.lower().startswith(("val", "test"))]
    if not held_out:
        return Documents(name, all_blocks(files), column, hold_out=split)
    chosen = held_out if split == "val" else [f for f in files if f not in held_out]
    return Documents(f"{name}/{split}", all_blocks(chosen), column)


def hub_documents(dataset: HubDataset, split: str) -> "Documents":
    """A fetched dataset: the last shard is held out, the others are for training."""
    here, last = dataset.shards_here(), dataset.shards - 1
    if last not in here or len(here) < 2:
        raise DataMissing(
            f"{dataset.name} is not in {data_dir(dataset.name)} (a training shard and the "
            "validation shard are needed): fetch it with "
            f"`nanochat data-download --dataset {dataset.name}`"
        )
    chosen = here[:-1] if split == "train" else [last]
    files = [dataset.local_file(shard) for shard in chosen]
    return Documents(f"{dataset.name}/{split}", all_blocks(files), dataset.column)


def limited(texts: Iterable[str], max_characters: int, document_cap: int) -> Iterator[str]:
    """The beginning of each text, up to `document_cap`, until `max_characters` in all.

    >>> list(limited(["abcd", "ef", "gh"], max_characters=6, document_cap=3))
    ['abc', 'ef', 'g']
    """
    left = max_characters
    for text in texts:
        if left <= 0:
            return
        piece = text[: min(document_cap, left)]
        left -= len(piece)
        yield piece


def all_blocks(files: list[Path]) -> list[Block]:
    return [block for file in files for block in blocks_of(file)]


class Documents:
    """An ordered collection of texts in blocks; `hold_out` names the half of each block to read."""

    def __init__(
        self, name: str, blocks: list[Block], column: str = "text", hold_out: str | None = None
    ):
        if not blocks:
            raise EmptyCorpus(f"{name} is empty: it holds not one document")
        self.name = name
        self.blocks = blocks
        self.column = column
        self.hold_out = hold_out
        self.rows_before = [0, *accumulate(block.rows for block in blocks)]

    def __iter__(self) -> Iterator[str]:
        """Once through, in order."""
        for number in range(len(self.blocks)):
            yield from (text for _, text in self.rows(number))

    def rows(self, number: int, start: int = 0) -> Iterator[tuple[int, str]]:
        """(row, text) of one block from row `start` on: neither empty nor of the other split."""
        for row, text in enumerate(read_block(self.blocks[number], self.column)):
            if row >= start and text.strip() and self.is_ours(number, row):
                yield row, text

    def is_ours(self, number: int, row: int) -> bool:
        """Whether a row belongs to our side of the split."""
        if self.hold_out is None:
            return True
        held_out = (self.rows_before[number] + row) % HELD_OUT == HELD_OUT - 1
        return held_out == (self.hold_out == "val")

    # @learn:data.parquet_streaming
    def stream(
        self, rank: int = 0, world_size: int = 1, start: Position | None = None
    ) -> Iterator[tuple[Position, str]]:
        """(position after it, text) for ever, this rank's share; goes on from `start`.

        Rank r of W takes blocks r, r + W, ... so that no one reads what another uses. Where a rank
        would go without (fewer blocks than ranks, or blocks of which only some rows count), each
        reads all and takes documents r, r + W, ... of the endless sequence instead.
        Raises EmptyCorpus rather than searching for ever.
        """
        assert 0 <= rank < world_size
        if self.hold_out is None and len(self.blocks) >= world_size:
            yield from self._endless(rank, world_size, start or (0, rank, 0))
        else:
            everything = self._endless(0, 1, start or (0, 0, 0))
            yield from islice(
                everything, rank if start is None else world_size - 1, None, world_size
            )

    def _endless(self, first: int, step: int, start: Position) -> Iterator[tuple[Position, str]]:
        epoch, block, row = start
        found = start != (0, first, 0)  # going on: the pass that led here found something
        while True:
            for number in range(block, len(self.blocks), step):
                for at, text in self.rows(number, row):
                    found = True
                    yield (epoch, number, at + 1), text
                row = 0
            if not found:
                raise EmptyCorpus(self._why_nothing(first, step))
            epoch, block, found = epoch + 1, first, False

    def _why_nothing(self, first: int, step: int) -> str:
        if self.hold_out == "val":
            return (
                f"{self.name} has no document to hold out for validation (every {HELD_OUT}th is): "
                "give more text, or a folder with a file named val"
            )
        part = f" in the part of rank {first} of {step}" if step > 1 else ""
        return f"{self.name} is empty: it holds not one document with text{part}"

    def fingerprint(self) -> str:
        """Changes when files are added, removed, renamed or resized: a position is void then."""
        digest = hashlib.sha256(f"{self.column} {self.hold_out}".encode())
        sizes = {path: path.stat().st_size for path in {block.path for block in self.blocks}}
        for path, *place in self.blocks:
            digest.update(f"{path.name} {sizes[path]} {place}\n".encode())
        return digest.hexdigest()
