"""Reinforce a chat model on questions that check themselves, and measure what it brought.

For each seed: practise mostly the kinds of question that the model is weakest at, then measure
every kind on held-out questions. A seed of `--preset laptop` takes minutes on one core; `speedrun`
has the published sizes. Saves checkpoints under checkpoints/rl/<tag> and the record `rl`.
Ctrl-C saves and stops; --resume goes on from there.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from nanochat.chat_eval import take_exam
from nanochat.checkpoint import Checkpoint, find_checkpoint, load_checkpoint
from nanochat.cli import parse, print_json, run
from nanochat.device import pick_device, use_threads
from nanochat.distributed import World, join
from nanochat.engine import Engine
from nanochat.gpt import GPT
from nanochat.paths import tokenizer_dir
from nanochat.report import record
from nanochat.rl import (
    RewardProgress,
    RlSettings,
    RolloutBatches,
    check_division,
    load_chat_model,
    prepare_rl,
    with_preset,
)
from nanochat.sampling import Sampling
from nanochat.tasks.rl_questions import (
    Asked,
    Questions,
    guessing,
    open_questions,
    wanted_kinds,
    weak_kinds,
)
from nanochat.tokenizer import Tokenizer
from nanochat.train_loop import restore, resume_point, train


@dataclass
class Teacher:
    """What stays the same for every seed."""

    settings: RlSettings
    tokenizer: Tokenizer
    chat: Checkpoint
    tag: str
    world: World

    def model(self) -> GPT:
        return load_chat_model(self.settings, self.chat, self.tokenizer)

    def accuracy(self, model: GPT, questions: list[Asked]) -> dict[str, float]:
        """Share of right greedy answers of each kind."""
        engine = Engine(model, self.tokenizer)

        def answer(conversations: Sequence[list]) -> list[str]:
            prompts = [self.tokenizer.render_for_completion({"messages": m}) for m in conversations]
            sampling = Sampling(max_tokens=max(96, self.settings.max_tokens), temperature=0.0)
            return [done.text for done in engine.generate_batch(prompts, sampling, max_batch=128)]

        marks = take_exam(questions, answer, lambda q, reply: q.reward(reply) == 1).marks
        return {kind: sum(right) / len(right) for kind, right in marks.items()}

    def run(
        self, seed: int, practice: Questions, wanted: dict[str, float], held_out: list[Asked]
    ) -> dict[str, Any]:
        """Reinforce a fresh copy of the chat model, then measure it."""
        s = replace(self.settings, seed=seed)
        tag = self.tag if seed == s.seeds[0] else f"{self.tag}-seed{seed}"
        started, checkpoint = time.process_time(), resume_point("rl", tag, s)
        model = self.model()
        engine = Engine(model, self.tokenizer)

        def write(prompts: Sequence[list[int]], seeds: Sequence[int]) -> list:
            each = [Sampling(s.max_tokens, s.temperature, s.top_k, seed=one) for one in seeds]
            return engine.generate_batch(prompts, each, max_batch=128)

        state = checkpoint.meta["batches"] if checkpoint else None
        batches = RolloutBatches(
            s, self.tokenizer, wanted, practice.ask, write, Asked.reward, state
        )
        finished = prepare_rl(s, model, batches, self.tokenizer, tag)
        if checkpoint:
            restore(finished, checkpoint)
        if self.world.leads:
            finished.show = RewardProgress()
        train(finished, s)
        after = self.accuracy(model, held_out) if self.world.leads else {}
        minutes = round((time.process_time() - started) / 60, 2)
        return {"seed": seed, "tag": tag, "after": after, "cpu_minutes": minutes}


def main(argv: Sequence[str] | None = None) -> int:
    settings = with_preset(parse(RlSettings, argv, "nanochat chat-rl", __doc__))
    use_threads(settings.threads)
    world = join(pick_device(settings.device))
    check_division(settings)
    tokenizer = Tokenizer.load(tokenizer_dir())
    chat = load_checkpoint(find_checkpoint("sft", settings.sft_tag or None), with_optimizer=False)
    tag = settings.tag or chat.path.parent.name
    teacher = Teacher(settings, tokenizer, chat, tag, world)
    practice, unseen = open_questions(settings.task, 0, settings.held_out)
    held_out = unseen.some(settings.held_out)
    model = teacher.model()
    before = teacher.accuracy(model, held_out)
    practised = list(settings.kinds)
    if not practised:
        probe = teacher.accuracy(model, practice.some(settings.probe))
        practised = weak_kinds(probe, guessing(unseen), settings.most_kinds)
    wanted = wanted_kinds(practised, practice.kinds, settings.retain)
    runs = [teacher.run(seed, practice, wanted, held_out) for seed in settings.seeds]
    if not world.leads:
        return 0
    result = {"before": before, "practised": practised, "seeds": runs, "tag": tag}
    mean = {kind: sum(one["after"][kind] for one in runs) / len(runs) for kind in before}
    result |= {"after": mean, "gain": {kind: mean[kind] - before[kind] for kind in before}}
    for kind in sorted(before, key=lambda kind: before[kind]):
        each = "  ".join(f"{one['after'][kind]:6.1%}" for one in runs)
        star = " *" if kind in practised else ""
        print(f"  {kind:<14} {before[kind]:6.1%} -> {mean[kind]:6.1%}   (seeds: {each}){star}")
    print(f"* practised. CPU minutes: {', '.join(str(one['cpu_minutes']) for one in runs)}")
    record("rl", result)
    if settings.json:
        print_json(result)
    return 0


if __name__ == "__main__":
    run(main)
