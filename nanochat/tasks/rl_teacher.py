"""One reinforcement after another of the same chat model: practise, measure on the way, measure.

Called by scripts/chat_rl.py. It brings together what the import order keeps apart: the training of
rl.py, the engine that writes answers and the questions of a task. Read: Teacher.marks -> run.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from nanochat.chat_eval import take_exam
from nanochat.checkpoint import Checkpoint
from nanochat.distributed import World
from nanochat.distributed_work import shared_out
from nanochat.engine import Engine
from nanochat.gpt import GPT
from nanochat.rl import RewardProgress, RlSettings, RolloutBatches, load_chat_model, prepare_rl
from nanochat.rl_gain import Marks, Point, shares
from nanochat.run_log import read_log
from nanochat.sampling import Sampling
from nanochat.tasks.rl_questions import Asked, Questions
from nanochat.tokenizer import Tokenizer
from nanochat.train_loop import Run, restore, resume_point, train

MAX_BATCH = 128  # answers written together
LONGEST = 96  # tokens of an answer that is measured, or more if practice allows more


@dataclass
class Teacher:
    """What stays the same for every seed."""

    settings: RlSettings
    tokenizer: Tokenizer
    chat: Checkpoint
    tag: str
    world: World
    practice: Questions
    held_out: list[Asked]

    def model(self) -> GPT:
        return load_chat_model(self.settings, self.chat, self.tokenizer)

    def marks(self, model: GPT, questions: list[Asked], divided: bool = True) -> Marks:
        """Right or wrong for the greedy answer to each question.

        Divided, all processes of the run must ask together, and all get all the marks.
        """
        engine = Engine(model, self.tokenizer)
        sampling = Sampling(max_tokens=max(LONGEST, self.settings.max_tokens), temperature=0.0)

        def write(prompts: Sequence[list[int]]) -> list[str]:
            return [one.text for one in engine.generate_batch(prompts, sampling, MAX_BATCH)]

        def answer(conversations: Sequence[list]) -> list[str]:
            prompts = [self.tokenizer.render_for_completion({"messages": m}) for m in conversations]
            return shared_out(prompts, write) if divided else write(prompts)

        return take_exam(questions, answer, lambda q, reply: q.reward(reply) == 1).marks

    def run(self, seed: int, wanted: dict[str, float]) -> tuple[dict[str, Any], Marks]:
        """Reinforce a fresh copy of the chat model: what to report of it, and its final marks."""
        s = replace(self.settings, seed=seed)
        tag = self.tag if seed == s.seeds[0] else f"{self.tag}-seed{seed}"
        checkpoint = resume_point("rl", tag, s)
        model = self.model()
        engine = Engine(model, self.tokenizer)

        def write(prompts: Sequence[list[int]], seeds: Sequence[int]) -> list:
            each = [Sampling(s.max_tokens, s.temperature, s.top_k, seed=one) for one in seeds]
            return engine.generate_batch(prompts, each, MAX_BATCH)

        state = checkpoint.meta["batches"] if checkpoint else None
        batches = RolloutBatches(
            s, self.tokenizer, wanted, self.practice.ask, write, Asked.reward, state
        )
        taught = prepare_rl(s, model, batches, self.tokenizer, tag)
        watched = Watched(self, taught, batches, wanted)
        taught.notes = watched.notes
        if checkpoint:
            restore(taught, checkpoint)
        if self.world.leads:
            taught.show = RewardProgress()
        train(taught, s)
        marks = self.marks(model, self.held_out)
        report = {
            "seed": seed,
            "tag": tag,
            "after": shares(marks),
            "cpu_minutes": round(watched.cpu_s() / 60, 2),
            "curve": [*watched.curve(), (s.steps, watched.of_practised(shares(marks)))],
        }
        return report, marks


@dataclass
class Watched:
    """Measures the practised kinds now and then during a run. Nothing is decided by it."""

    teacher: Teacher
    taught: Run
    batches: RolloutBatches
    wanted: dict[str, float]
    since: float = field(default_factory=time.process_time)

    def log(self) -> list[dict[str, Any]]:
        return read_log(self.taught.folder / "log.jsonl")

    def cpu_s(self) -> float:
        """Processor seconds of practice until the newest line of the log, of all tries."""
        return max((row.get("cpu_s", 0.0) for row in self.log()), default=0.0)

    def of_practised(self, accuracy: dict[str, float]) -> dict[str, float]:
        return {kind: share for kind, share in accuracy.items() if self.wanted[kind] == 1.0}

    def notes(self) -> dict[str, Any]:
        """For the newest line of the log, which one process writes."""
        s, step = self.teacher.settings, self.taught.state.step
        started = time.process_time()
        practice_s = self.cpu_s() + started - self.since
        self.since = started
        seen = self.batches.seen | {"cpu_s": round(practice_s, 4)}
        if not s.curve_every or step % s.curve_every or step == s.steps:
            return seen
        questions = [q for q in self.teacher.held_out if self.wanted[q.kind] == 1.0]
        found = shares(self.teacher.marks(self.taught.model, questions, divided=False))
        self.since = time.process_time()  # measuring is no practice
        return seen | {"held_out": found}

    def curve(self) -> list[Point]:
        return [(row["step"], row["held_out"]) for row in self.log() if "held_out" in row]
