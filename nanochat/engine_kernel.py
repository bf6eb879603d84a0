"""The step that writes one more token for every row, in C: the same mathematics, half the time.

Half of a decode step in PyTorch is calls and copies. engine_kernel.c does the whole step; it is
compiled when a server first needs it, into the folder of made things, under a name that changes
with the source and the processor. Without a compiler, or for a model that it does not know, PyTorch
goes on doing it, and the log says so. Like gpt_packed.py it keeps a copy of the weights, so
only who serves a finished model uses it. Called by chat_web.py and engine_bench.py.
The scalar lab compiles its tape alike (scalar/tape_c.py); it imports nothing of ours, nor we of it.
Read: next_scores -> kernel_for -> decode_kernel -> compile_step -> DecodeKernel.
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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from nanochat import gpt
from nanochat.errors import UserError
from nanochat.gpt import GATE_CHANNELS, GPT, Block
from nanochat.kv_cache import CacheView, KVCache
from nanochat.paths import base_dir

SOURCE = Path(__file__).with_suffix(".c")
# Sums keep their order (no -ffast-math): a row's bits may not depend on what stands beside it.
FLAGS = ("-O3", "-march=native", "-std=gnu11", "-shared", "-fPIC", "-ffp-contract=fast",
         "-fno-math-errno", "-fno-trapping-math")  # fmt: skip
COMPILE_LIMIT_S = 300  # it takes two seconds; a loaded machine may need minutes
logger = logging.getLogger(__name__)
KERNELS = ("auto", "c", "torch")
POINTER, NUMBER = ctypes.c_void_p, ctypes.c_int32


class NoKernel(UserError):
    """The step in C can't be had here; PyTorch does it."""


def next_scores(model: GPT, kernel: "DecodeKernel | None", ids: Tensor, view: CacheView) -> Tensor:
    """Feed tokens (B, T) to the rows of `view`; the scores of what comes next, (B, V)."""
    if kernel is not None and ids.size(1) == 1 and gpt.TAP is None:  # C has no taps for a trace
        return kernel.scores(ids, view)
    return model(ids, cache=view, last_only=True)[:, 0]


@contextmanager
def threads_at_rest(kernel: "DecodeKernel | None") -> Iterator[None]:
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


def kernel_for(model: GPT, wish: str) -> "DecodeKernel | None":
    """The step in C for `c`, none for `torch`; for `auto` C if it can be had, else a line of log.

    Nothing is said where it is not meant for: in bf16, or on a GPU, which has kernels of its own.
    """
    if wish == "torch" or (wish == "auto" and not is_fp32_on_processor(model)):
        return None
    try:
        return decode_kernel(model)
    except NoKernel as error:
        if wish == "c":
            raise
        fields = {"event": "kernel", "reason": str(error)}
        logger.info("PyTorch writes the answers, at a third of the speed", extra={"fields": fields})
        return None


def decode_kernel(model: GPT, threads: int | None = None) -> "DecodeKernel":
    """The kernel for this model as it is now. Raises NoKernel with the reason."""
    check_model(model)
    try:
        library = ctypes.CDLL(str(compile_step(base_dir() / "compiled")))
    except OSError as error:
        raise NoKernel(f"the compiled step can't be loaded ({error})") from None
    return DecodeKernel(model, library, threads or torch.get_num_threads())


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
    name = hashlib.sha256(machine.encode() + SOURCE.read_bytes()).hexdigest()[:16]
    target = folder / f"decode-{name}.so"
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
        command = [compiler, *FLAGS, "-o", unfinished, str(SOURCE), "-lm", "-lpthread"]
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
        ("rows", NUMBER),
    )


class DecodeKernel:
    """`scores(tokens, view)`: what model(tokens, cache=view)[:, 0] is, for tokens (B, 1)."""

    def __init__(self, model: GPT, library: ctypes.CDLL, threads: int) -> None:
        library.decode_open.restype, library.decode_open.argtypes = POINTER, (POINTER, NUMBER)
        library.decode_step.restype, library.decode_step.argtypes = None, (POINTER, POINTER)
        library.decode_close.restype, library.decode_close.argtypes = None, (POINTER,)
        self.library, self.config = library, model.config
        self.panel = library.decode_panel()
        self.kept: list[Tensor] = []  # what C points to
        self.lock = threading.Lock()  # the helpers serve one step at a time
        described = self._describe(model)
        self.team = library.decode_open(ctypes.byref(described), threads)
        if not self.team:
            raise NoKernel("no memory or no thread for the step in C")
        weakref.finalize(self, library.decode_close, self.team)
        self.seen: weakref.ref[KVCache] | None = None  # whose addresses were looked up last
        self.addresses: list[tuple[int, int, int, int]] = []

    def scores(self, tokens: Tensor, view: CacheView) -> Tensor:
        """Feed tokens (B, 1) to the rows of `view`; the scores of what comes next, (B, V)."""
        cache, first = view.cache, view.rows.start
        rows = len(tokens)
        lengths = torch.tensor(cache.lengths[view.rows])
        assert max(cache.lengths[view.rows]) < cache.capacity, "the engine ends a row before"
        out = torch.empty(rows, self.config.vocab_size)
        flat = tokens.contiguous()
        layers = (_LayerCache * self.config.n_layer)(
            *(
                _LayerCache(keys + first * row_bytes, values + first * row_bytes, slots)
                for keys, values, slots, row_bytes in self._layers(cache)
            )
        )
        batch = _Batch(
            flat.data_ptr(),
            lengths.data_ptr(),
            ctypes.addressof(layers),
            cache.last[first].data_ptr(),
            out.data_ptr(),
            rows,
        )
        with self.lock:
            self.library.decode_step(self.team, ctypes.byref(batch))
        view.advance(1)
        return out

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
