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
from nanochat.trace_format import Captured, Level, Record, Step, Trace, capture
from nanochat.trace_names import CONSTANTS, DERIVED, IN_BLOCK, axes_of, chosen, split_name

Dtype = Literal["f16", "f32"]
Mode = Literal["observe", "edit"]
QUERY, KEY = "attn.q", "attn.k"
STARTS_OF_DERIVED = {QUERY, KEY, "attn.q_normed", "attn.k_normed", "attn.z"}


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
        self.rotated: list[tuple[Record, Tensor]] = []  # to be worked out: its q or k before
        self.shares: list[tuple[Record, int]] = []  # attn.result of a layer, to be worked out
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
        if kind is None:
            self._work_out()

    # --- called by gpt.py ---

    def begin(self, model: gpt.GPT, idx: Tensor, cache: gpt.Cache | None) -> None:
        """A forward pass starts: it becomes the next step."""
        if threading.get_ident() != self.thread:
            raise TraceMisuse("the model ran in another thread than its trace was opened in")
        if model is not self.model:
            raise TraceMisuse("another model ran inside this trace: open one for it instead")
        if len(idx) != 1:
            raise TraceMisuse(f"{len(idx)} rows at once: a trace follows one row")
        self._work_out()
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
        if key in self.touched:
            x = self._touch(self.touched[key], x)
        if wanted := self.watched.get(key):
            self._keep(wanted, x, sys._getframe(1))
        if name in STARTS_OF_DERIVED:
            self._derive(name, x, layer, sys._getframe(1))
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

    def _keep(self, name: str, x: Tensor, at: FrameType) -> Record:
        x = x.detach() if x.requires_grad else x
        record = Record(name, x, at.f_code, at.f_lineno)
        self.steps[-1].records.append(record)
        return record

    def _derive(self, name: str, x: Tensor, layer: int, at: FrameType) -> None:
        """What the model never computes by itself: rotation without norm, one head's share.

        Their place is kept here; they are worked out after the pass, all layers together.
        """
        if name in (QUERY, KEY):
            self.queries[name] = x.detach() if x.requires_grad else x
        elif name == "attn.z":
            if wanted := self.watched.get((layer, "attn.result")):
                self.shares.append((self._keep(wanted, x, at), layer))
        elif wanted := self.watched.get((layer, f"attn.rot_{name[5]}")):
            self.rotated.append((self._keep(wanted, x, at), self.queries[name[:6]]))

    def _work_out(self) -> None:
        """rot = normed * rms / scale; result = z of a head times its rows of the output matrix."""
        sizes = {before.shape for _, before in self.rotated}
        for size in sizes:
            group = [(record, before) for record, before in self.rotated if before.shape == size]
            inverse = inverse_rms(torch.cat([before for _, before in group]))
            normed = torch.cat([record.tensor for record, _ in group])  # (n, T, H or G, D)
            turned = normed.div_(inverse.mul_(self.model.config.qk_scale))
            for row, (record, _) in enumerate(group):
                record.tensor = turned[row : row + 1]
        for record, layer in self.shares:
            block: Any = self.model.blocks[layer]
            z, weight = record.tensor, block.attn.out.weight.detach()  # (1, T, H, D), (C, H * D)
            weight = weight.to(z.dtype).view(-1, *z.shape[2:]).permute(1, 2, 0)  # (H, D, C)
            record.tensor = (z.transpose(1, 2) @ weight).transpose(1, 2)  # (1, T, H, C)
        self.rotated.clear()
        self.shares.clear()

    # --- afterwards ---

    def captured(self) -> Captured:
        """The numbers of everything that was seen, within the byte budget."""
        steps = [self._chosen_positions(step) for step in self.steps]
        return capture(steps, self.level, self.dtype, self.max_bytes, self.topk)

    def result(self, about: dict[str, Any] | None = None) -> Trace:
        """The same with its manifest, as a file holds it. `about` goes into the manifest."""
        return self.captured().written(about or {})

    def _chosen_positions(self, step: Step) -> Step:
        if self.positions is None:
            return step
        here = [p - step.start for p in self.positions if 0 <= p - step.start < len(step.tokens)]
        records = []
        for record in step.records:
            axes = axes_of(record.name)
            if "T" in axes:
                tensor = record.tensor.index_select(
                    1 + axes.index("T"),
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


assert set(IN_BLOCK) >= STARTS_OF_DERIVED, "the derivations know these names"
