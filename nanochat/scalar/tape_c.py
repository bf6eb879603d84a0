"""Replay a tape in C: the same bits as value.py, several hundred times faster.

The C source (tape.h, build.c, gradients.c, walk.c, run.c) lies beside this file. It is compiled
when first needed, into the folder `cache`, under a name that changes with the source. Without a
compiler everything works in numpy, and one sentence says so.
Read: library_or_none -> compile_library -> CProgram.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nanochat.scalar.errors import ScalarError
from nanochat.scalar.rows import Rows

SOURCES = tuple(
    Path(__file__).parent / name for name in ("tape.h", "build.c", "gradients.c", "walk.c", "run.c")
)
# No contraction to fused multiply-add, no folding of pow: each would change last bits.
FLAGS = ("-O2", "-std=c11", "-shared", "-fPIC", "-ffp-contract=off", "-fno-builtin",
         "-fno-math-errno")  # fmt: skip
COMPILE_LIMIT_S = 600  # it takes a second; a loaded machine may need minutes


class NoLibrary(ScalarError):
    """The C replay was asked for and can't be had."""


def library_or_none(cache: Path | None, required: bool = False) -> ctypes.CDLL | None:
    """The compiled library, or None after saying why once. With `required`, NoLibrary instead."""
    if cache is None:
        if required:
            raise NoLibrary("the C replay needs a folder for its library: give cache=")
        return None
    library, why = _load(cache)
    if library is None and required:
        raise NoLibrary(f"{why}: install a C compiler, or replay in numpy")
    return library


@functools.cache
def _load(cache: Path) -> tuple[ctypes.CDLL | None, str]:
    try:
        return _declare(ctypes.CDLL(str(compile_library(cache)))), ""
    except (NoLibrary, OSError) as error:
        print(f"scalar: {error}; replaying in numpy, a few times slower", file=sys.stderr)
        return None, str(error)


def compile_library(cache: Path) -> Path:
    """The shared library for this source on this machine, compiled if it is not there yet."""
    text = b"".join(path.read_bytes() for path in SOURCES)
    machine = " ".join((sys.platform, platform.machine(), *FLAGS))
    name = hashlib.sha256(machine.encode() + text).hexdigest()[:16]
    target = cache / f"tape-{name}.so"
    if target.exists():
        return target
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise NoLibrary("no C compiler was found (cc, gcc or clang)")
    cache.mkdir(parents=True, exist_ok=True)
    handle, unfinished = tempfile.mkstemp(suffix=".so", dir=cache)
    os.close(handle)
    try:
        sources = [str(path) for path in SOURCES if path.suffix == ".c"]
        command = [compiler, *FLAGS, "-o", unfinished, *sources, "-lm"]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=COMPILE_LIMIT_S, check=False
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise NoLibrary(f"{compiler} could not compile the tape ({last})")
        os.replace(unfinished, target)  # two processes at once: both made the same file
    except subprocess.TimeoutExpired:
        raise NoLibrary(f"{compiler} took more than {COMPILE_LIMIT_S} s") from None
    finally:
        Path(unfinished).unlink(missing_ok=True)
    return target


class _CRows(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int32) for name in ("count", "n_parameters", "n_inputs")),
        *((name, ctypes.c_int32) for name in ("n_picks", "n_lists", "n_constants")),
        *((name, ctypes.c_void_p) for name in ("op", "left", "right", "lists", "constants")),
    )


class _CAdam(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_double)
        for name in (
            "rate", "beta1", "beta2", "rest1", "rest2", "share1", "share2", "epsilon", "keep",
        )
    )  # fmt: skip


def _declare(library: ctypes.CDLL) -> ctypes.CDLL:
    pointer, number = ctypes.c_void_p, ctypes.c_int32
    library.program_new.restype = pointer
    library.program_new.argtypes = (ctypes.POINTER(_CRows), pointer, number, number)
    library.program_free.argtypes = (pointer,)
    library.program_free.restype = None
    library.program_forward.argtypes = (pointer,) * 5
    library.program_forward.restype = None
    library.program_backward.argtypes = (pointer, pointer, ctypes.c_double)
    library.program_backward.restype = None
    library.adam_step.argtypes = (number, *(pointer,) * 4, ctypes.POINTER(_CAdam))
    library.adam_step.restype = None
    return library


def adam_in_c(
    library: ctypes.CDLL,
    parameters: np.ndarray,
    gradient: np.ndarray,
    mean: np.ndarray,
    square: np.ndarray,
    **settings: float,
) -> None:
    """One Adam step on float64 arrays (P,), in place: optimizer.py's formula, libm's bits."""
    arrays = (a.ctypes.data for a in (parameters, gradient, mean, square))
    library.adam_step(len(parameters), *arrays, ctypes.byref(_CAdam(**settings)))


class CProgram:
    """A rows.Program in C."""

    def __init__(
        self, rows: Rows, results: Sequence[int], library: Any, gradient: bool = True
    ) -> None:
        self._library, self._rows, self._gradient = library, rows, gradient
        n_constants = len(rows.constants)
        wanted = np.array(results, np.int32)
        arrays = (rows.ops, rows.left, rows.right, rows.lists, rows.constants)
        counts = (len(rows.ops), rows.n_parameters, rows.n_inputs, rows.n_picks, len(rows.lists))
        c_rows = _CRows(*counts, n_constants, *(a.ctypes.data for a in arrays))
        self._handle = library.program_new(
            ctypes.byref(c_rows), wanted.ctypes.data, len(wanted), gradient
        )
        if not self._handle:
            raise MemoryError(f"no memory for a program of {len(rows.ops):,} rows")
        weakref.finalize(self, library.program_free, self._handle)
        self._parameters = np.zeros(rows.n_parameters)
        self._inputs = np.zeros(rows.n_inputs)
        self._picks = np.zeros(rows.n_picks, np.int32)
        self._results = np.zeros(len(wanted))
        self._gradient_seen: np.ndarray | None = None
        self._gradient_at = 0
        self._buffers = tuple(
            a.ctypes.data for a in (self._parameters, self._inputs, self._picks, self._results)
        )

    def forward(
        self,
        parameters: Sequence[float] | np.ndarray,
        inputs: Sequence[float] | np.ndarray = (),
        picks: Sequence[int] | np.ndarray = (),
    ) -> np.ndarray:
        self._parameters[:] = parameters
        if self._rows.n_inputs or len(inputs):
            self._inputs[:] = inputs
        if self._rows.n_picks or len(picks):
            self._picks[:] = picks
            self._rows.check_picks(self._picks)
        self._library.program_forward(self._handle, *self._buffers)
        return self._results.copy()

    def backward(self, gradient: np.ndarray | None = None, seed: float = 1.0) -> np.ndarray:
        assert self._gradient, "compiled without a gradient"
        into: np.ndarray = np.zeros(self._rows.n_parameters) if gradient is None else gradient
        if into is not self._gradient_seen:  # looking up an address takes a microsecond
            assert into.dtype == np.float64 and into.flags.c_contiguous
            assert into.shape == self._parameters.shape
            self._gradient_seen, self._gradient_at = into, into.ctypes.data
        self._library.program_backward(self._handle, self._gradient_at, seed)
        return into
