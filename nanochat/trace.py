"""Watch a model think: every activation of a forward pass, seen by taps inside gpt.py.

    with TraceContext(model, names="blocks.*.attn.pattern", level="full") as trace:
        model(tokens)
    picture = trace.result()          # trace_format.Trace: manifest, tensors, bytes for a file

Called by engine_trace.py (a prompt, step by step), the tests and learners. While no context is open
gpt.TAP is None and the model computes bit for bit what it always computes.
Read: trace_names.py (what there is) -> TraceContext -> Edit -> trace_format.py (budget and file)
-> trace_invariants.py (is it true?).

One row at a time (B = 1), in the thread that opened it, of the model it was opened for.
Attention is computed step by step where scores or pattern are wanted; engine_trace.py reports how
far its logits are from the fast path's. Not covered: the loss path (targets given) has no logits.
"""

import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any, Literal

import torch
from torch import Tensor

import nanochat.gpt as gpt
from nanochat.errors import UserError
from nanochat.fused import inverse_rms
from nanochat.trace_format import Level, Record, Step, Trace, pack
from nanochat.trace_names import CONSTANTS, DERIVED, IN_BLOCK, axes_of, chosen, split_name

Dtype = Literal["f16", "f32"]
Mode = Literal["observe", "edit"]
QUERY, KEY = "attn.q", "attn.k"


class TraceMisuse(UserError):
    """A trace inside a trace, in another thread, of another model, or of several rows."""


class BadEdit(UserError):
    """An edit that would change nothing, or that lies outside of what there is."""


@dataclass(frozen=True)
class Edit:
    """Set or scale an activation: `Edit("blocks.2.attn.z", "scale", 0, heads=(1,))` mutes a head.

    Positions are those of tokens in the whole text; `keys` are columns of scores and pattern.
    """

    name: str
    op: Literal["set", "scale"]
    value: float
    positions: tuple[int, ...] | None = None
    heads: tuple[int, ...] | None = None
    keys: tuple[int, ...] | None = None

    def apply(self, x: Tensor, start: int) -> Tensor:
        """A changed copy of x, (1, ...) with the axes of its name."""
        y = x.clone()
        index: list[Any] = [slice(None)] * y.dim()
        for place, axis in enumerate(axes_of(self.name), 1):
            picked = {"T": self.positions, "H": self.heads, "G": self.heads, "S": self.keys}
            if (wanted := picked.get(axis)) is None:
                continue
            shift = start if axis == "T" else 0
            size = y.size(place)
            inside = [p - shift for p in wanted if 0 <= p - shift < size]
            # One axis after the other, so that positions x heads is a block and not pairs.
            mask = torch.zeros(size, dtype=torch.bool, device=y.device)
            mask[inside] = True
            index[place] = mask
        region = torch.ones_like(y, dtype=torch.bool)
        for place, part in enumerate(index):
            if isinstance(part, Tensor):
                shape = [1] * y.dim()
                shape[place] = -1
                region &= part.view(shape)
        new = torch.full_like(y, self.value) if self.op == "set" else y * self.value
        return torch.where(region, new, y)


class TraceContext:
    """Opens the taps of one model on entering, closes them on leaving, exceptions included."""

    def __init__(
        self,
        model: gpt.GPT,
        names: str | Sequence[str] = "*",
        positions: Sequence[int] | None = None,
        level: Level = "full",
        dtype: Dtype = "f16",
        max_bytes: int = 8 << 20,
        mode: Mode = "observe",
        edits: Sequence[Edit] = (),
        gradients: str | Sequence[str] = (),
        topk: int = 8,
    ) -> None:
        self.model, self.positions, self.level = model, positions, level
        self.dtype, self.max_bytes, self.topk = dtype, max_bytes, topk
        self.edits = self._checked(edits, mode)
        wanted = chosen(names, model.config)
        self.graded = set(chosen(gradients, model.config)) if gradients else set[str]()
        # (layer, short name) -> full name, of what a tap must do something about
        self.watched = {split_name(name): name for name in wanted}
        touched = {edit.name for edit in self.edits} | self.graded
        self.touched = {split_name(name): name for name in touched}
        self.steps: list[Step] = []
        self.held: dict[str, list[Tensor]] = {}  # tensors whose gradient was asked for
        self.queries: dict[str, Tensor] = {}  # attn.q and attn.k before the rotation
        self.thread = 0

    def _checked(self, edits: Sequence[Edit], mode: Mode) -> list[Edit]:
        if edits and mode != "edit":
            raise BadEdit(f'{len(edits)} edits in mode "observe": pass mode="edit"')
        if mode == "edit" and not edits:
            raise BadEdit('mode "edit" without edits: pass edits=[Edit(...)] or observe')
        found = []
        for edit in edits:
            for name in chosen(edit.name, self.model.config):
                if split_name(name)[1] in DERIVED:
                    raise BadEdit(f"{name} is worked out for show: edit what it comes from")
                found.append(Edit(name, edit.op, edit.value, edit.positions, edit.heads, edit.keys))
        return found

    # --- opening and closing ---

    def __enter__(self) -> "TraceContext":
        if gpt.TAP is not None:
            raise TraceMisuse("a trace is open already: close it before opening another")
        self.thread = threading.get_ident()
        gpt.TAP = self
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        assert gpt.TAP is self, "nobody else closes this trace"
        gpt.TAP = None
        self.queries.clear()

    # --- called by gpt.py ---

    def begin(self, model: gpt.GPT, idx: Tensor, cache: gpt.Cache | None) -> None:
        """A forward pass starts: it becomes the next step."""
        if threading.get_ident() != self.thread:
            raise TraceMisuse("the model ran in another thread than its trace was opened in")
        if model is not self.model:
            raise TraceMisuse("another model ran inside this trace: open one for it instead")
        if len(idx) != 1:
            raise TraceMisuse(f"{len(idx)} rows at once: a trace follows one row")
        start = int(cache.positions(1)[0, 0]) if cache is not None else 0
        self.steps.append(Step(start, idx[0].tolist(), []))
        for name in CONSTANTS:
            if (-1, name) in self.watched:
                value = getattr(model, name).detach().reshape(1, -1)
                self._keep(name, value, sys._getframe(0))

    def wants(self, name: str, layer: int) -> bool:
        """The pattern is asked for by all who need attention step by step."""
        if name == "attn.pattern" and self._knows("attn.scores", layer):
            return True
        return self._knows(name, layer)

    def _knows(self, name: str, layer: int) -> bool:
        return (layer, name) in self.watched or (layer, name) in self.touched

    def __call__(self, name: str, x: Tensor, layer: int = -1) -> Tensor:
        """One activation passes by; what comes back is what the model goes on with."""
        key = (layer, name)
        if self.touched and key in self.touched:
            x = self._touch(self.touched[key], x)
        if key in self.watched:
            self._keep(self.watched[key], x.detach(), sys._getframe(1))
        if layer >= 0:
            self._derive(name, x, layer)
        return x

    # --- inside ---

    def _touch(self, name: str, x: Tensor) -> Tensor:
        for edit in self.edits:
            if edit.name == name:
                x = edit.apply(x, self.steps[-1].start)
        if name in self.graded:
            if not x.requires_grad:
                raise TraceMisuse(
                    f"{name} has no gradient here: run the model outside of no_grad and inference"
                )
            x.retain_grad()
            self.held.setdefault(name, []).append(x)
        return x

    def _keep(self, name: str, x: Tensor, at: FrameType) -> None:
        self.steps[-1].records.append(Record(name, x[0], at.f_code, at.f_lineno))

    def _derive(self, name: str, x: Tensor, layer: int) -> None:
        """What the model never computes by itself: rotation without norm, one head's share."""
        if name in (QUERY, KEY):
            self.queries[name] = x
        elif name in ("attn.q_normed", "attn.k_normed"):
            rotated = f"attn.rot_{name[5]}"
            if (layer, rotated) in self.watched:
                before = self.queries[f"attn.{name[5]}"]
                size = inverse_rms(before) * self.model.config.qk_scale
                self._keep(self.watched[layer, rotated], (x / size).detach(), sys._getframe(2))
        elif name == "attn.z" and (layer, "attn.result") in self.watched:
            H, D = x.shape[2:]
            block: Any = self.model.blocks[layer]
            weight = block.attn.out.weight.to(x.dtype).view(-1, H, D).permute(1, 2, 0)  # (H, D, C)
            result = (x.transpose(1, 2) @ weight).transpose(1, 2)  # (1, T, H, C)
            self._keep(self.watched[layer, "attn.result"], result.detach(), sys._getframe(2))

    # --- afterwards ---

    def result(self, about: dict[str, Any] | None = None) -> Trace:
        """Everything that was seen, within the byte budget. `about` goes into the manifest."""
        steps = [self._chosen_positions(step) for step in self.steps]
        return pack(steps, self.level, self.dtype, self.max_bytes, self.topk, about or {})

    def _chosen_positions(self, step: Step) -> Step:
        if self.positions is None:
            return step
        here = [p - step.start for p in self.positions if 0 <= p - step.start < len(step.tokens)]
        records = []
        for record in step.records:
            axes = axes_of(record.name)
            if "T" in axes:
                tensor = record.tensor.index_select(
                    axes.index("T"),
                    torch.tensor(here, dtype=torch.long, device=record.tensor.device),
                )
                record = Record(record.name, tensor, record.code, record.line)
            records.append(record)
        return Step(step.start, step.tokens, records, [step.start + i for i in here])

    def gradients(self) -> dict[str, list[Tensor]]:
        """After a backward pass: for each name asked for, the gradient at every step."""
        found = {}
        for name, tensors in self.held.items():
            grads = [x.grad for x in tensors]
            if any(g is None for g in grads):
                raise TraceMisuse(f"no gradient has reached {name}: call backward() first")
            found[name] = [g[0] for g in grads if g is not None]
        return found


assert set(IN_BLOCK) >= {QUERY, KEY}, "the derivations know these names"
