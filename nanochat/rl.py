"""Reinforcement: the model answers, a checker says right or wrong, and what led to right grows.

Called by scripts/chat_rl.py, which brings what lies below in the import order: the questions, the
checker and the engine that writes answers. Read: RlSettings -> advantages -> merged -> to_batches
-> RolloutBatches -> prepare_rl. A group is the S answers that were drawn to one question.

The policy gradient: grow the log-probability of each token by how much better its answer was than
the mean of its group. No value network, no reference model, no clipping: one update for each draw.
    loss = - sum over answers of (reward - group mean) * sum over tokens of log p / tokens
Sources: REINFORCE (Williams 1992), group baselines (DeepSeekMath, Shao 2024), nanochat's own RL.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from random import Random
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from nanochat.checkpoint import Checkpoint, build_model, check_tokenizer, provenance
from nanochat.cross_entropy import IGNORE
from nanochat.device import pick_device, pick_dtype
from nanochat.distributed import here
from nanochat.errors import UserError
from nanochat.gpt import GPT
from nanochat.optimizers import Optimizers, OptimizerSettings
from nanochat.progress import Progress
from nanochat.scaling import BadPlan
from nanochat.schedules import Schedule
from nanochat.tokenizer import Tokenizer
from nanochat.train_loop import LoopSettings, Run

MEMORY = 0.9  # how slowly the share of a kind follows what was seen of it
LEAST = 0.1  # of what is wanted: none is ever forgotten

# AdamW takes steps of full size however faint the gradient, so tables get a tenth of their rate:
# a rare token's row would otherwise learn from the luck of a few answers.
GENTLE = OptimizerSettings(
    embedding_lr=0.03, head_lr=0.0008, scalar_lr=0.05, weight_decay=0.0, lr_scale=0.12
)


class NoQuestions(UserError):
    """There is nothing to practise with."""


@dataclass(frozen=True)
class RlSettings(LoopSettings):
    """Reinforce a chat model on questions that can be checked."""

    dtype: str = "fp32"  # answers are drawn and learned in one format: auto | fp32 | bf16 | fp16
    eval_every: int = 0  # checkpoints only at the end; set --save-every for more
    log_every: int = 1  # steps between lines of the log
    sft_tag: str = ""  # which fine-tuned run to start from; empty: the newest
    task: str = "tinyworld"  # tinyworld | gsm8k | spellingbee | simplespelling
    kinds: tuple[str, ...] = ()  # what to practise; empty: the weakest that are understood a little
    most_kinds: int = 3  # so many of them
    retain: float = 0.1  # how often each other kind is asked, beside 1 for one that is practised
    steps: int = 110  # optimizer steps
    questions: int = 64  # questions in one step
    samples: int = 8  # answers drawn to each question
    temperature: float = 1.0  # of the draws; 1 is the model's own odds
    top_k: int = 50  # draw from the k best tokens only; 0 is off
    max_tokens: int = 64  # longest answer, tokens
    accumulation: int = 1  # gradient passes the answers of a step are divided into
    warmup_steps: int = 5  # steps in which the learning rate rises
    warmdown_share: float = 0.7  # share of the run in which it falls
    final_lr_share: float = 0.0  # down to this share
    preset: Literal["laptop", "speedrun"] = "laptop"  # sizes; other flags override them
    seeds: tuple[int, ...] = (1, 2, 3)  # one run each, for --seed; the first has the plain tag
    held_out: int = 300  # questions of each kind to measure with, before and after
    probe: int = 100  # practice questions of each kind that decide which kinds are weak
    curve_every: int = 25  # steps between measurements of the practised kinds; 0: none
    bar_points: float = 5.0  # percentage points that count as a gain; 0: no bar
    bar_kinds: int = 2  # practised kinds that have to gain so much
    optimizer: OptimizerSettings = field(default_factory=lambda: GENTLE)


PRESETS: dict[str, dict[str, Any]] = {
    "laptop": {},
    "speedrun": {
        **{"task": "gsm8k", "dtype": "auto", "steps": 467, "questions": 16, "samples": 16},
        **{"max_tokens": 256, "accumulation": 16, "seeds": (1,), "save_every": 60},
    },
}


def with_preset(settings: RlSettings) -> RlSettings:
    """Fill in what was left at its default."""
    untouched = {f.name for f in fields(settings) if getattr(settings, f.name) == f.default}
    wanted = PRESETS[settings.preset].items()
    return replace(settings, **{name: value for name, value in wanted if name in untouched})


def check_division(settings: RlSettings) -> None:
    """Every process asks as many questions as the others, and learns in as many passes."""
    size = here().size
    if settings.questions % size or settings.accumulation % size:
        raise BadPlan(
            f"{settings.questions} questions and {settings.accumulation} passes a step do not "
            f"divide among {size} processes; make --questions and --accumulation multiples"
        )


class Question(Protocol):
    """What a task asks: `kind` for the statistics, `messages` that end with the user's."""

    @property
    def kind(self) -> str: ...
    @property
    def messages(self) -> list[dict[str, Any]]: ...


class Written(Protocol):
    """An answer as engine.Completion has it."""

    @property
    def tokens(self) -> list[int]: ...
    @property
    def forced(self) -> list[bool]: ...
    @property
    def text(self) -> str: ...


@dataclass(frozen=True)
class Rollout:
    """One answer to one question, and how much better than its group it was."""

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    forced: tuple[bool, ...]  # written by a tool: not the model's choice, so not to be learned
    advantage: float


Ask = Callable[[str, int], Question]  # (kind, number) -> the same question every time
Write = Callable[[Sequence[list[int]], Sequence[int]], Sequence[Written]]  # prompts, seeds
Reward = Callable[[Any, str], float]  # question, answer -> 0 (wrong) to 1 (right)


# @learn:optimization.policy_gradient
def advantages(rewards: Sequence[float]) -> list[float]:
    """How much better than its group each answer was; all equal teach nothing.

    >>> advantages([1.0, 0.0, 0.0, 1.0])
    [0.5, -0.5, -0.5, 0.5]
    """
    mean = sum(rewards) / len(rewards)
    return [reward - mean for reward in rewards]


def merged(rollouts: Sequence[Rollout]) -> list[Rollout]:
    """The same answer to the same question, drawn twice, is learned once with the summed advantage.

    The gradient is the same, and a sharp model repeats itself a lot. Sums of 0 are dropped.
    """
    total: dict[tuple[tuple[int, ...], tuple[int, ...]], float] = {}
    found: dict[tuple[tuple[int, ...], tuple[int, ...]], Rollout] = {}
    for one in rollouts:
        key = one.prompt, one.tokens
        found.setdefault(key, one)
        total[key] = total.get(key, 0.0) + one.advantage
    return [
        Rollout(one.prompt, one.tokens, one.forced, total[key])
        for key, one in found.items()
        if abs(total[key]) > 1e-9
    ]


# @learn:optimization.policy_gradient
def to_batches(
    rollouts: Sequence[Rollout], parts: int, pad: int, normalizer: float
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """`parts` batches of inputs, targets and shares, each (B, T); neighbours have similar lengths.

    A token's share is advantage / normalizer: the loss of gpt.py with these shares is the policy
    loss. A part without answers is one row that is not graded.
    """
    ordered = sorted(rollouts, key=lambda one: len(one.prompt) + len(one.tokens))
    for part in range(parts):
        low, high = (len(ordered) * p // parts for p in (part, part + 1))
        rows = ordered[low:high] or [Rollout((pad,), (pad,), (True,), 0.0)]
        length = max(len(one.prompt) + len(one.tokens) for one in rows)
        ids = torch.full((len(rows), length), pad)
        targets = torch.full((len(rows), length), IGNORE)
        share = torch.zeros(len(rows), length)
        for i, one in enumerate(rows):
            start, end = len(one.prompt), len(one.prompt) + len(one.tokens)
            ids[i, :end] = torch.tensor((*one.prompt, *one.tokens))
            own = torch.tensor([not forced for forced in one.forced])
            targets[i, start:end] = torch.where(own, ids[i, start:end], IGNORE)
            share[i, start:end] = one.advantage / normalizer
        yield ids[:, :-1], targets[:, 1:].contiguous(), share[:, 1:].contiguous()


# @learn:optimization.policy_gradient
class RolloutBatches:
    """Asks, lets the model answer, grades, and hands out what to learn; without end.

    `kinds`: how often each kind is wanted. Of what is wanted, a kind is asked the more often, the
    more often its answers were right and wrong in one group: only there is something to learn.
    `state` continues exactly.
    """

    def __init__(
        self,
        settings: RlSettings,
        tokenizer: Tokenizer,
        kinds: dict[str, float],
        ask: Ask,
        write: Write,
        reward: Reward,
        state: dict[str, Any] | None = None,
    ) -> None:
        if not kinds:
            raise NoQuestions("no kind of question to practise; name one with --kinds")
        self.settings, self.tokenizer, self.ask = settings, tokenizer, ask
        self.wanted, self.write, self.reward = kinds, write, reward
        self.step = state["step"] if state else 0
        self.mixed: dict[str, float] = dict(state["mixed"]) if state else dict.fromkeys(kinds, 1.0)
        self.ready: list[tuple[Tensor, Tensor, Tensor]] = []
        self.seen: dict[str, Any] = {}  # of the newest step, for the log

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "mixed": dict(self.mixed)}

    def __iter__(self) -> "RolloutBatches":
        return self

    def __next__(self) -> tuple[Tensor, Tensor, Tensor]:
        if not self.ready:
            self.ready = list(self._rollouts())
            self.step += 1
        return self.ready.pop(0)

    def _rollouts(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The answers of one step, graded, as batches; each process asks its share."""
        s, world = self.settings, here()
        numbers = range(self.step * s.questions, (self.step + 1) * s.questions)
        shares = [self.wanted[kind] * max(LEAST, mixed) for kind, mixed in self.mixed.items()]
        drawn = Random(f"{s.seed}/kinds/{self.step}").choices(
            list(self.mixed), shares, k=s.questions
        )
        mine = range(world.rank, s.questions, world.size)
        asked = [self.ask(drawn[i], numbers[i]) for i in mine]
        groups = self._answers(asked, [numbers[i] for i in mine])
        marks = [[self.reward(q, one.text) for one in answers] for q, (_, answers) in groups]
        rollouts = [
            Rollout(tuple(prompt), tuple(one.tokens), tuple(one.forced), better)
            for (_, (prompt, answers)), own in zip(groups, marks, strict=True)
            for one, better in zip(answers, advantages(own), strict=True)
        ]
        learned = merged(rollouts)
        self._note(drawn, dict(zip(mine, marks, strict=True)))
        own_tokens = sum(not forced for one in rollouts for forced in one.forced)
        sums = [own_tokens, sum(map(sum, marks)), len(rollouts), len(learned)]
        tokens, right, answers, distinct = here().sum(sums)
        self.seen = {
            "reward": right / answers,
            "learned": distinct / answers,  # the rest taught nothing, or were drawn twice
            "tokens_each": tokens / answers,
        }
        pad, normalizer = self.tokenizer.special("bos"), max(1, tokens) / s.accumulation
        parts = to_batches(learned, s.accumulation // world.size, pad, normalizer)
        nothing = next(to_batches([], 1, pad, 1.0))
        for number in range(s.accumulation):  # train_loop.py skips those of other processes
            yield next(parts) if number % world.size == world.rank else nothing

    def _answers(
        self, asked: Sequence[Question], numbers: Sequence[int]
    ) -> list[tuple[Question, tuple[list[int], Sequence[Written]]]]:
        """Every question with its prompt and its group of answers; all are written together."""
        s = self.settings
        prompts = [self.tokenizer.render_for_completion({"messages": q.messages}) for q in asked]
        written = self.write(
            [prompt for prompt in prompts for _ in range(s.samples)],
            [
                Random(f"{s.seed}/answer/{number}/{i}").getrandbits(62)
                for number in numbers
                for i in range(s.samples)
            ],
        )
        groups = (written[i : i + s.samples] for i in range(0, len(written), s.samples))
        return list(zip(asked, zip(prompts, groups, strict=True), strict=True))

    def _note(self, kinds: Sequence[str], marks: dict[int, list[float]]) -> None:
        """Question i of the step, of kinds[i], got marks[i], here or in another process."""
        found = [float(i in marks and min(marks[i]) < max(marks[i])) for i in range(len(kinds))]
        for kind, mixed in zip(kinds, here().sum(found), strict=True):
            self.mixed[kind] = MEMORY * self.mixed[kind] + (1 - MEMORY) * mixed


class RewardProgress(Progress):
    """The line a person sees: how much was right, rather than a loss that says little here."""

    def __init__(self) -> None:
        super().__init__(gflops=0.0)

    def line(self, run: Run) -> str:
        """The step, the share of right answers and the time left, in one line."""
        seen, step, steps = run.notes(), run.state.step, run.schedule.steps
        left = int((steps - step) * self.mean_s)
        return (
            f"rl {step:,}/{steps:,}  right {seen['reward']:.0%} of the answers drawn, "
            f"{seen['tokens_each']:.0f} tokens each  {left // 60}:{left % 60:02d} left"
        )


def load_chat_model(settings: RlSettings, chat: Checkpoint, tokenizer: Tokenizer) -> GPT:
    """The fine-tuned model that reinforcement starts from."""
    check_tokenizer(chat.meta, tokenizer)
    device = pick_device(settings.device)
    return build_model(chat, pick_dtype(settings.dtype, device)).to(device)


def prepare_rl(
    settings: RlSettings, model: GPT, batches: RolloutBatches, tokenizer: Tokenizer, tag: str
) -> Run:
    """A run that goes on with `model`, which also writes the answers of `batches`."""
    return Run(
        stage="rl",
        tag=tag,
        model=model,
        optimizers=Optimizers(model, settings.optimizer),
        schedule=Schedule(
            settings.steps,
            settings.warmup_steps,
            settings.warmdown_share,
            settings.final_lr_share,
        ),
        batches=batches,
        accumulation=settings.accumulation,
        provenance=provenance(model.config, settings, tokenizer) | {"data": settings.task},
        notes=lambda: batches.seen,
    )
