"""Supervised fine-tuning: teach the pretrained model to answer, graded on its answers only.

Called by scripts/chat_sft.py. Read: SftSettings -> ConversationLoader -> start_sft.
A conversation becomes token ids and a mask (tokenizer.render_conversation); targets where the
mask is 0 are -1. Rows of T tokens hold whole conversations, best fit, the rest is padding.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from nanochat.chat_format import NothingToLearn
from nanochat.checkpoint import Checkpoint, build_model, check_tokenizer, provenance
from nanochat.cross_entropy import IGNORE
from nanochat.device import pick_device, pick_dtype
from nanochat.errors import UserError
from nanochat.optimizers import Optimizers, OptimizerSettings
from nanochat.scaling import BadPlan
from nanochat.schedules import Schedule
from nanochat.tokenizer import Tokenizer
from nanochat.train_loop import LoopSettings, Run


class Conversations(Protocol):
    """A list of conversations, or a task of nanochat/tasks that reads them when asked."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> dict[str, Any]: ...


class ConversationsBroken(UserError):
    """A file of conversations is missing, empty, or has a row that is not a conversation."""


@dataclass(frozen=True)
class SftSettings(LoopSettings):
    """Fine-tune on conversations."""

    # tinyworld, a JSONL file of {"messages": [...]}, or tasks: "smoltalk,mmlu:3" is mmlu 3 times,
    # "real" the mixture of runs/speedrun.sh
    data: str = "tinyworld"
    base_tag: str = ""  # which pretrained run to start from; empty: the newest
    epochs: float = 1.0  # passes over the conversations
    steps: int = 0  # optimizer steps; 0: from epochs
    rows: int = 16  # rows in one forward pass
    accumulation: int = 1  # forward passes in one optimizer step
    context: int = 256  # tokens in a row
    buffer: int = 64  # conversations to choose from when filling a row
    warmup_steps: int = 20  # steps in which the learning rate rises
    warmdown_share: float = 0.5  # share of the run in which it falls
    final_lr_share: float = 0.0  # down to this share
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)


def read_conversations(path: Path) -> list[dict[str, Any]]:
    """Every line of a JSONL file; the first bad row is named by its line number."""
    if not path.is_file():
        raise ConversationsBroken(f"no conversations at {path}; give a JSONL file with --data")
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            row["messages"][0]["role"]
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise ConversationsBroken(
                f'{path}, line {number} is not a conversation ({error}); a row is {{"messages": '
                '[{"role": "user", "content": "..."}, ...]}'
            ) from error
        rows.append(row)
    if not rows:
        raise ConversationsBroken(f"{path} is empty; a row is one conversation as JSON")
    return rows


# @learn:optimization.sft
class ConversationLoader:
    """Rows of rendered conversations, in the order of the file (its curriculum), without end.

    A row opens with the oldest buffered conversation and takes the longest that still fit; the rest
    is filled with <|bos|> and not graded. `state` continues exactly where state_dict() was taken.
    """

    def __init__(
        self,
        conversations: Conversations,
        tokenizer: Tokenizer,
        rows: int,
        context: int,
        buffer: int = 64,
        device: torch.device | str = "cpu",
        state: dict[str, Any] | None = None,
    ) -> None:
        self.conversations, self.tokenizer = conversations, tokenizer
        self.rows, self.context, self.buffer, self.device = rows, context, buffer, device
        self.position, self.waiting = 0, []  # waiting: indices of buffered conversations
        if state:
            self.position, self.waiting = state["position"], list(state["waiting"])
        self.rendered: dict[int, tuple[list[int], list[int]]] = {}
        self.skipped: set[int] = set()  # conversations with no graded token within the context

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position, "waiting": list(self.waiting)}

    def _render(self, index: int) -> tuple[list[int], list[int]]:
        if index not in self.rendered:
            conversation = self.conversations[index % len(self.conversations)]
            self.rendered[index] = self.tokenizer.render_conversation(
                conversation, self.context + 1
            )
        return self.rendered[index]

    def _fill(self) -> None:
        while len(self.waiting) < self.buffer:
            try:
                self._render(self.position)
                self.waiting.append(self.position)
            except NothingToLearn as error:
                self.skipped.add(self.position % len(self.conversations))
                if len(self.skipped) == len(self.conversations):
                    raise ConversationsBroken(
                        f"no conversation has an answer within {self.context} tokens; raise "
                        "--context or shorten them"
                    ) from error
            self.position += 1

    # @learn:data.packing
    def _row(self) -> tuple[list[int], list[int]]:
        """One row of context + 1 ids with their mask."""
        ids: list[int] = []
        mask: list[int] = []
        while True:
            self._fill()
            room = self.context + 1 - len(ids)
            sizes = {i: len(self._render(i)[0]) for i in self.waiting}
            fitting = [i for i in self.waiting if sizes[i] <= room]
            if not fitting:
                break
            # A row opens with the oldest, so that none waits for ever; then the longest that fit.
            chosen = max(fitting, key=lambda i: sizes[i]) if ids else self.waiting[0]
            self.waiting.remove(chosen)
            more_ids, more_mask = self.rendered.pop(chosen)
            ids, mask = ids + more_ids, mask + more_mask
        pad = self.context + 1 - len(ids)
        return ids + [self.tokenizer.special("bos")] * pad, mask + [0] * pad

    def __iter__(self) -> "ConversationLoader":
        return self

    def __next__(self) -> tuple[Tensor, Tensor]:
        """inputs and targets, int64 (rows, context)."""
        rows = [self._row() for _ in range(self.rows)]
        ids = torch.tensor([row[0] for row in rows])  # (B, T + 1)
        graded = torch.tensor([row[1] for row in rows], dtype=torch.bool)
        targets = torch.where(graded, ids, IGNORE)[:, 1:]
        return ids[:, :-1].to(self.device), targets.contiguous().to(self.device)


def steps_of(settings: SftSettings, conversations: Conversations, tokenizer: Tokenizer) -> int:
    """Optimizer steps: as asked, or as many as `epochs` passes over the conversations take.

    Rows are about 92% full; the estimate renders every 50th conversation to know their size, of
    very many a thousand.
    """
    if settings.steps:
        return settings.steps
    chosen = range(0, len(conversations), max(50, len(conversations) // 1000))
    limit = settings.context + 1
    sizes = [rendered_size(conversations[i], tokenizer, limit) for i in chosen]
    tokens = sum(sizes) / len(sizes) * len(conversations) * settings.epochs
    return max(1, round(tokens / 0.92 / (settings.rows * settings.context * settings.accumulation)))


def rendered_size(conversation: dict[str, Any], tokenizer: Tokenizer, limit: int) -> int:
    """Tokens a conversation takes in a row; 0 if it is skipped."""
    try:
        return len(tokenizer.render_conversation(conversation, limit)[0])
    except NothingToLearn:
        return 0


# @learn:optimization.sft
def prepare_sft(
    settings: SftSettings,
    base: Checkpoint,
    tokenizer: Tokenizer,
    batches: ConversationLoader,
    steps: int,
) -> Run:
    """A run that starts from a pretrained model, with a fresh optimizer."""
    check_tokenizer(base.meta, tokenizer)
    if settings.context > base.meta["model"]["sequence_len"]:
        raise BadPlan(
            f"rows of {settings.context} tokens for a model that takes "
            f"{base.meta['model']['sequence_len']}; make --context smaller"
        )
    device = pick_device(settings.device)
    model = build_model(base, pick_dtype(settings.dtype, device)).to(device)
    return Run(
        stage="sft",
        tag=settings.tag or base.path.parent.name,
        model=model,
        optimizers=Optimizers(model, settings.optimizer),
        schedule=Schedule(
            steps, settings.warmup_steps, settings.warmdown_share, settings.final_lr_share
        ),
        batches=batches,
        accumulation=settings.accumulation,
        provenance=provenance(model.config, settings, tokenizer) | {"base": str(base.path.name)},
    )
