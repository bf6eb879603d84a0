"""Files of text as blocks of documents: .parquet, .jsonl and .txt behind two functions.

A block is a piece that can be read without reading what stands before it: one row group of a
parquet file, or about 8 MB of lines. Documents never span two blocks, so "document r of block b"
is a place one can come back to. Called by dataset.py. Read: blocks_of -> read_block -> lines_of.

    .parquet   one document a row, in the column asked for
    .jsonl     one a line: {"text": "..."}, or just "..."
    .txt       one for about 4,000 characters, cut at an empty line where there is one
"""

import codecs
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow
from pyarrow import parquet

from nanochat.errors import UserError

SUFFIXES = (".parquet", ".jsonl", ".txt")
BLOCK_BYTES = 8 << 20
DOCUMENT_CHARACTERS = 4000  # of a .txt file, which doesn't say where a document ends


class UnreadableCorpus(UserError):
    """A file is damaged, in another encoding, or lacks the text it should hold."""


class Block(NamedTuple):
    path: Path
    start: int  # a row group's number, or the first byte of a piece of a text file
    end: int  # one past the last
    rows: int = 1  # documents in it; of a text file that takes reading, so it is given as 1


# @learn:data.parquet_streaming
def blocks_of(path: Path, block_bytes: int = BLOCK_BYTES) -> list[Block]:
    """The blocks of one file, in order; reads a parquet file's footer and no text at all."""
    if path.suffix != ".parquet":
        size = path.stat().st_size
        return [
            Block(path, start, min(start + block_bytes, size))
            for start in range(0, size, block_bytes)
        ]
    with open_parquet(path) as file:
        return [
            Block(path, number, number + 1, file.metadata.row_group(number).num_rows)
            for number in range(file.num_row_groups)
        ]


def read_block(block: Block, column: str = "text") -> list[str]:
    """Every document of a block; an empty string stands where a row has none."""
    if block.path.suffix == ".parquet":
        return read_row_group(block, column)
    if block.path.suffix == ".jsonl":
        return [json_document(block.path, line, column) for line in lines_of(block)]
    return list(cut_into_documents(lines_of(block)))


def open_parquet(path: Path) -> parquet.ParquetFile:
    """A parquet file with its checksums verified; a broken one is named."""
    try:
        return parquet.ParquetFile(path, page_checksum_verification=True)
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise UnreadableCorpus(
            f"{path} is not a whole parquet file ({error}): delete it and fetch or make it again"
        ) from error


# @learn:data.parquet_streaming
def read_row_group(block: Block, column: str) -> list[str]:
    """The texts of one block of a parquet file."""
    with open_parquet(block.path) as file:
        names = file.schema_arrow.names
        if column not in names:
            raise UnreadableCorpus(
                f"{block.path} has no column {column!r}; its columns: {', '.join(names)}"
            )
        try:
            table = file.read_row_group(block.start, columns=[column], use_threads=False)
        except (pyarrow.ArrowException, OSError) as error:
            raise UnreadableCorpus(
                f"row group {block.start} of {block.path} can't be read ({error}): "
                "delete the file and fetch or make it again"
            ) from error
    values = table.column(column).to_pylist()
    wrong = next((v for v in values if v is not None and not isinstance(v, str)), None)
    if wrong is not None:
        raise UnreadableCorpus(f"column {column!r} of {block.path} holds {wrong!r:.40}, not text")
    return [value or "" for value in values]


def lines_of(block: Block) -> Iterator[str]:
    """Every line that begins inside the block, whole, without its line break.

    A line that began before `start` belongs to the block before, hence the step back by one byte:
    reading on from there ends exactly at the first line break at or after start - 1.
    """
    with open(block.path, "rb") as file:
        if block.start:
            file.seek(block.start - 1)
            file.readline()
        while file.tell() < block.end:
            at = file.tell()
            line = file.readline()
            if at == 0:
                line = line.removeprefix(codecs.BOM_UTF8)
            try:
                yield line.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise UnreadableCorpus(
                    f"{block.path} is not UTF-8 text at byte {at + error.start}: "
                    "save it as UTF-8 and try again"
                ) from error


def json_document(path: Path, line: str, column: str) -> str:
    """The text in one line of JSONL; an empty line is an empty text."""
    if not line.strip():
        return ""
    try:
        record = json.loads(line)
    except ValueError as error:
        raise UnreadableCorpus(f"{path}: no JSON in the line {line!r:.60} ({error})") from error
    text = record.get(column) if isinstance(record, dict) else record
    if not isinstance(text, str):
        raise UnreadableCorpus(f'{path}: a line is {{"{column}": "..."}}, this is {line!r:.60}')
    return text


def cut_into_documents(lines: Iterable[str], limit: int = DOCUMENT_CHARACTERS) -> Iterator[str]:
    """Lines gathered into documents of up to about `limit` characters.

    Cut at an empty line once half of `limit` is reached, at any line end at the limit, and inside
    a line only where the line alone is longer.

    >>> list(cut_into_documents(["aaa", "", "bb", "c" * 7], limit=6))
    ['aaa', 'bb', 'cccccc', 'c']
    """
    gathered: list[str] = []
    size = 0
    for line in lines:
        full = size + len(line) > limit or (not line.strip() and 2 * size >= limit)
        if full and gathered:
            yield "\n".join(gathered).strip("\n")
            gathered, size = [], 0
        while len(line) > limit:
            yield line[:limit]
            line = line[limit:]
        gathered.append(line)
        size += len(line) + 1
    yield "\n".join(gathered).strip("\n")
