"""Tokens in, the next ones out, in C: gpt.py's and sampling.py's mathematics, in half the time.

Half of a small step in PyTorch is calls and copies. engine_kernel.c computes the scores and
engine_choice.c draws from them. They are compiled when a server first needs them, into the folder
of made things, under a name that changes with the source and the processor. Without a compiler, or
for a model that they don't know, PyTorch goes on doing it, and the log says so. The kernel keeps a
copy of the weights, so only who serves a finished model uses it. Called by chat_web.py.
The scalar lab compiles its tape alike (scalar/tape_c.py); it imports nothing of ours, nor we of it.
Read: next_scores -> next_tokens -> kernel_for -> compiled_kernel -> compile_step -> EngineKernel.
B rows, T new tokens, V vocabulary.
"""

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from nanochat import gpt
from nanochat.errors import UserError
from nanochat.gpt import GATE_CHANNELS, GPT, Block
from nanochat.kv_cache import CacheView, KVCache
from nanochat.paths import base_dir
from nanochat.sampling import Sampling, broken_rows, choose

HERE = Path(__file__).parent
SOURCES = (HERE / "engine_kernel.c", HERE / "engine_choice.c")
INCLUDED = HERE / "engine_numbers.h"
# Sums keep their order (no -ffast-math): a row's bits may not depend on what stands beside it.
FLAGS = ("-O3", "-march=native", "-std=gnu11", "-shared", "-fPIC", "-ffp-contract=fast",
         "-fno-math-errno", "-fno-trapping-math")  # fmt: skip
COMPILE_LIMIT_S = 300  # it takes two seconds; a loaded machine may need minutes
SPARE = 127  # see spare_slots: pieces of one token more
logger = logging.getLogger(__name__)
KERNELS = ("auto", "c", "torch")
POINTER, NUMBER = ctypes.c_void_p, ctypes.c_int32


class NoKernel(UserError):
    """The step in C can't be had here; PyTorch does it."""


def next_scores(model: GPT, kernel: "EngineKernel | None", ids: Tensor, view: CacheView) -> Tensor:
    """Feed tokens (B, T) to the rows of `view`; the scores of what comes next, (B, V)."""
    if kernel is not None and gpt.TAP is None:  # C has no taps for a trace
        return kernel.scores(ids, view)
    return model(ids, cache=view, last_only=True)[:, 0]


def spare_slots(kernel: "EngineKernel | None") -> int:
    """How many slots more a ring needs so that this kernel reads prompts in pieces of a good size.

    PyTorch joins old and new keys in a copy; C writes the new ones over those that have left.
    """
    return 0 if kernel is None else SPARE


def next_tokens(
    kernel: "EngineKernel | None",
    logits: Tensor,
    samplings: Sequence[Sampling],
    dice: Sequence[float],
) -> list[int | None]:
    """A token for each row of scores (B, V); None where they are no finite numbers."""
    if kernel is not None:
        return kernel.choose(logits, samplings, dice)
    broken = broken_rows(logits)
    fine = [row for row in range(len(dice)) if row not in broken]
    if not fine:
        return [None] * len(dice)
    whole = logits if not broken else logits[fine]
    drawn = iter(choose(whole, [samplings[row] for row in fine], [dice[row] for row in fine]))
    return [None if row in broken else next(drawn) for row in range(len(dice))]


@contextmanager
def threads_at_rest(kernel: "EngineKernel | None") -> Iterator[None]:
    """While the kernel writes, PyTorch works in one thread: its others go on spinning for a while
    after each piece of work, on the very cores that the kernel's helpers need."""
    threads = torch.get_num_threads()
    if kernel is not None:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if kernel is not None:
            torch.set_num_threads(threads)


def kernel_for(model: GPT, wish: str) -> "EngineKernel | None":
    """The step in C for `c`, none for `torch`; for `auto` C if it can be had, else a line of log.

    Nothing is said where it is not meant for: in bf16, or on a GPU, which has kernels of its own.
    """
    if wish == "torch" or (wish == "auto" and not is_fp32_on_processor(model)):
        return None
    try:
        return compiled_kernel(model)
    except NoKernel as error:
        if wish == "c":
            raise
        fields = {"event": "kernel", "reason": str(error)}
        logger.info("PyTorch writes the answers, at a third of the speed", extra={"fields": fields})
        return None


def compiled_kernel(model: GPT, threads: int | None = None) -> "EngineKernel":
    """The kernel for this model as it is now. Raises NoKernel with the reason."""
    check_model(model)
    try:
        library = ctypes.CDLL(str(compile_step(base_dir() / "compiled")))
    except OSError as error:
        raise NoKernel(f"the compiled step can't be loaded ({error})") from None
    return EngineKernel(model, library, threads or torch.get_num_threads())


def is_fp32_on_processor(model: GPT) -> bool:
    return model.dtype == torch.float32 and model.head.weight.device.type == "cpu"


def check_model(model: GPT) -> None:
    """What engine_kernel.c does not cover."""
    config = model.config
    if not is_fp32_on_processor(model):
        raise NoKernel("the step in C is for fp32 on a processor")
    kv = config.n_kv_head * config.head_size
    hidden = block_of(model, 0).mlp.up.out_features
    sizes = (config.n_embd, kv, 2 * config.head_size, hidden)
    if config.mlp != "relu2" or any(size % 32 for size in sizes):
        raise NoKernel("the step in C is for relu2 and sizes that divide by 32 (heads by 16)")


def block_of(model: GPT, index: int) -> Block:
    block = model.blocks[index]
    assert isinstance(block, Block), "GPT builds nothing else"
    return block


def compile_step(folder: Path) -> Path:
    """The shared library for this source on this processor, compiled if it is not there yet."""
    machine = " ".join((platform.platform(), processor(), *FLAGS))
    text = b"".join(path.read_bytes() for path in (*SOURCES, INCLUDED))
    target = folder / f"engine-{hashlib.sha256(machine.encode() + text).hexdigest()[:16]}.so"
    if target.exists():
        return target
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise NoKernel("no C compiler was found (cc, gcc or clang)")
    unfinished = ""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, unfinished = tempfile.mkstemp(suffix=".so", dir=folder)
        os.close(handle)
        command = [compiler, *FLAGS, "-o", unfinished, *map(str, SOURCES), "-lm", "-lpthread"]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=COMPILE_LIMIT_S, check=False
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise NoKernel(f"{compiler} could not compile the step ({last})")
        os.replace(unfinished, target)  # two processes at once: both made the same file
    except subprocess.TimeoutExpired:
        raise NoKernel(f"{compiler} took more than {COMPILE_LIMIT_S} s") from None
    except OSError as error:
        raise NoKernel(f"{folder} can't be written ({error})") from None
    finally:
        if unfinished:
            Path(unfinished).unlink(missing_ok=True)
    return target


def processor() -> str:
    """What the compiler may use here: a folder may be carried to a machine that has less."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


class _Layer(ctypes.Structure):
    _fields_ = (
        *((name, POINTER) for name in ("q", "k", "v", "out", "up", "down", "gate", "values")),
        *((name, ctypes.c_float) for name in ("residual", "input")),
        ("window", NUMBER),
    )


class _Model(ctypes.Structure):
    _fields_ = (
        *((name, POINTER) for name in ("embed", "head", "cosines", "sines", "smear_gate", "layer")),
        *((name, ctypes.c_float) for name in ("qk_scale", "softcap", "smear", "backout")),
        *((name, NUMBER) for name in ("channels", "heads", "groups", "head_size", "hidden")),
        *((name, NUMBER) for name in ("padded_vocabulary", "vocabulary", "layers")),
        *((name, NUMBER) for name in ("smear_channels", "gate_channels", "capacity")),
    )


class _LayerCache(ctypes.Structure):
    _fields_ = (("keys", POINTER), ("values", POINTER), ("slots", ctypes.c_int64))


class _Batch(ctypes.Structure):
    _fields_ = (
        *((name, POINTER) for name in ("tokens", "lengths", "cache", "last", "scores")),
        *((name, NUMBER) for name in ("rows", "count")),
    )


class _Wish(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_double) for name in ("temperature", "top_p", "die")),
        ("top_k", ctypes.c_int64),
    )


class EngineKernel:
    """`scores` is what model(ids, cache=view, last_only=True)[:, 0] is; `choose` is next_tokens."""

    def __init__(self, model: GPT, library: ctypes.CDLL, threads: int) -> None:
        library.kernel_open.restype, library.kernel_open.argtypes = POINTER, (POINTER, NUMBER)
        library.kernel_step.restype, library.kernel_step.argtypes = None, (POINTER, POINTER)
        library.kernel_close.restype, library.kernel_close.argtypes = None, (POINTER,)
        library.kernel_choose.restype = None
        library.kernel_choose.argtypes = POINTER, NUMBER, NUMBER, POINTER, POINTER, POINTER
        self.library, self.config = library, model.config
        self.panel = library.kernel_panel()
        self.kept: list[Tensor] = []  # what C points to
        self.lock = threading.Lock()  # helpers and room serve one call at a time
        self.room = torch.empty(4 * model.config.vocab_size)  # for a choice
        described = self._describe(model)
        self.team = library.kernel_open(ctypes.byref(described), threads)
        if not self.team:
            raise NoKernel("no memory or no thread for the step in C")
        # Not when Python ends: a thread that nobody waits for may be in the middle of a step.
        weakref.finalize(self, library.kernel_close, self.team).atexit = False
        self.seen: weakref.ref[KVCache] | None = None  # whose addresses were looked up last
        self.addresses: list[tuple[int, int, int, int]] = []

    def scores(self, ids: Tensor, view: CacheView) -> Tensor:
        """Feed tokens (B, T) to the rows of `view`; the scores of what comes next, (B, V)."""
        cache, T = view.cache, ids.size(1)
        longest = max(cache.lengths[view.rows]) + T
        assert longest <= cache.capacity, "the engine ends a row before"
        # A ring that turns while it is filled would lose what the first new tokens look at.
        turns = any(longest > slots for slots in cache.slots)
        room = min(T, cache.spare + 1) if turns else T
        for start in range(0, T, room):
            out = self._feed(ids[:, start : start + room].contiguous(), view)
        return out

    def _feed(self, ids: Tensor, view: CacheView) -> Tensor:
        cache, first = view.cache, view.rows.start
        count, T = ids.shape
        lengths = torch.tensor(cache.lengths[view.rows])
        out = torch.empty(count, self.config.vocab_size)
        with self.lock:
            layers = (_LayerCache * self.config.n_layer)(
                *(
                    _LayerCache(keys + first * row_bytes, values + first * row_bytes, slots)
                    for keys, values, slots, row_bytes in self._layers(cache)
                )
            )
            batch = _Batch(
                ids.data_ptr(),
                lengths.data_ptr(),
                ctypes.addressof(layers),
                cache.last[first].data_ptr(),
                out.data_ptr(),
                count,
                T,
            )
            self.library.kernel_step(self.team, ctypes.byref(batch))
        view.advance(T)
        return out

    def choose(
        self, logits: Tensor, samplings: Sequence[Sampling], dice: Sequence[float]
    ) -> list[int | None]:
        """A token for each row of scores (B, V); None where they are no finite numbers."""
        rows, vocabulary = logits.shape
        logits = logits.contiguous()
        wishes = (_Wish * rows)(
            *(
                _Wish(s.temperature, s.top_p, die, min(s.top_k, vocabulary))
                for s, die in zip(samplings, dice, strict=True)
            )
        )
        chosen, room = (NUMBER * rows)(), self.room.data_ptr()
        with self.lock:
            self.library.kernel_choose(logits.data_ptr(), rows, vocabulary, wishes, room, chosen)
        return [None if token < 0 else token for token in chosen]

    def _layers(self, cache: KVCache) -> list[tuple[int, int, int, int]]:
        """Where each layer's keys and values begin, its slots, and the bytes of a row."""
        if self.seen is None or self.seen() is not cache:
            self.seen = weakref.ref(cache)
            self.addresses = [
                (k.data_ptr(), v.data_ptr(), k.size(2), k.stride(0) * k.element_size())
                for k, v in zip(cache.keys, cache.values, strict=True)
            ]
        return self.addresses

    @torch.no_grad()
    def _describe(self, model: GPT) -> _Model:
        config = model.config
        self.layers = (_Layer * config.n_layer)(
            *(self._layer(model, i) for i in range(config.n_layer))
        )
        return _Model(
            embed=self._keep(model.embed.weight),
            head=self._panels(model.head.weight),
            cosines=self._keep(model.cos),
            sines=self._keep(model.sin),
            smear_gate=self._keep(model.smear_gate.weight) if config.smear else None,
            layer=ctypes.addressof(self.layers),
            qk_scale=config.qk_scale,
            softcap=config.softcap,
            smear=float(model.smear_scale) if config.smear else 0.0,
            backout=float(model.backout_scale) if config.backout else 0.0,
            channels=config.n_embd,
            heads=config.n_head,
            groups=config.n_kv_head,
            head_size=config.head_size,
            hidden=block_of(model, 0).mlp.up.out_features,
            padded_vocabulary=model.head.out_features,
            vocabulary=config.vocab_size,
            layers=config.n_layer,
            smear_channels=model.smear_gate.in_features if config.smear else 0,
            gate_channels=GATE_CHANNELS,
            capacity=config.sequence_len,
        )

    def _layer(self, model: GPT, index: int) -> _Layer:
        attention, mlp = block_of(model, index).attn, block_of(model, index).mlp
        gate, scaled = attention.gate, model.config.residual_scalars
        matrices = attention.q, attention.k, attention.v, attention.out, mlp.up, mlp.down
        table = None if gate is None else model.values[str(index)].get_parameter("weight")
        return _Layer(
            *(self._panels(matrix.weight) for matrix in matrices),
            gate=None if gate is None else self._keep(gate.weight),
            values=None if table is None else self._keep(table),
            residual=float(model.residual_scale[index]) if scaled else 1.0,
            input=float(model.input_scale[index]) if scaled else 0.0,
            window=model.config.windows()[index],
        )

    def _panels(self, weight: Tensor) -> int:
        """(out, in) -> (out / P, in, P): what a product reads, in the order in which it does."""
        fan_out, fan_in = weight.shape
        tall = weight.detach().view(fan_out // self.panel, self.panel, fan_in).transpose(1, 2)
        return self._keep(tall.contiguous())

    def _keep(self, tensor: Tensor) -> int:
        """The address of a tensor that stays alive as long as the kernel."""
        self.kept.append(tensor.detach().contiguous())
        return self.kept[-1].data_ptr()
