"""Reinforce a chat model on questions that check themselves, and measure what it brought.

For each seed: practise mostly the kinds of question that the model is weakest at, then measure
every kind on held-out questions, and say what each gained (+- its standard error) and whether the
bar is met. A seed of `--preset laptop` takes five minutes of one core; `speedrun` has the published
sizes. Saves checkpoints under checkpoints/rl/<tag>, the record `rl` and its curve, rl.svg.
Ctrl-C saves and stops; --resume goes on from there.
"""

from collections.abc import Sequence
from typing import Any

from nanochat.atomic import write_atomically
from nanochat.checkpoint import find_checkpoint, load_checkpoint
from nanochat.cli import parse, print_json, run
from nanochat.device import pick_device, use_threads
from nanochat.distributed import join
from nanochat.paths import report_dir, tokenizer_dir
from nanochat.report import record
from nanochat.rl import RlSettings, check_division, with_preset
from nanochat.rl_gain import Marks, check_measurable, curve_picture, gains, shares, verdict
from nanochat.tasks.rl_questions import guessing, open_questions, wanted_kinds, weak_kinds
from nanochat.tasks.rl_teacher import Teacher
from nanochat.tokenizer import Tokenizer


def outcome(
    settings: RlSettings, practised: list[str], before: Marks, runs: list[tuple[dict, Marks]]
) -> dict[str, Any]:
    """Everything measured, as --json prints it."""
    found = gains(before, [marks for _, marks in runs])
    at_first = shares(before)
    seeds = [report | {"before": at_first} for report, _ in runs]
    for one in seeds:
        one["curve"] = [(0, {kind: at_first[kind] for kind in practised}), *one["curve"]]
    return {
        "before": at_first,
        "after": {k: sum(one["after"][k] for one in seeds) / len(seeds) for k in at_first},
        "gain": {kind: each["gain"] for kind, each in found.items()},
        "gains": found,
        "practised": practised,
        "seeds": seeds,
        "bar": verdict(found, practised, settings.bar_points, settings.bar_kinds),
    }


def show(result: dict[str, Any]) -> None:
    """One line a kind, the weakest first."""
    before, after = result["before"], result["after"]
    for kind in sorted(before, key=lambda kind: before[kind]):
        each, star = result["gains"][kind], " *" if kind in result["practised"] else ""
        by_seed = "  ".join(f"{gain:+5.1f}" for gain in each["seeds"])
        print(
            f"  {kind:<14} {before[kind]:6.1%} -> {after[kind]:6.1%}  {each['gain']:+5.1f} "
            f"+- {each['standard_error']:.1f} points of {each['questions']} questions "
            f"(seeds: {by_seed}){star}"
        )
    minutes = ", ".join(str(one["cpu_minutes"]) for one in result["seeds"])
    print(f"* practised. CPU minutes: {minutes}")
    bar = result["bar"]
    if bar["points"] > 0:
        says = "holds" if bar["holds"] else "does not hold"
        reached = f": {', '.join(bar['reached_by']) or 'no kind'}"
        print(f"{bar['points']:g} points on {bar['kinds']} practised kinds: {says}{reached}")


def main(argv: Sequence[str] | None = None) -> int:
    settings = with_preset(parse(RlSettings, argv, "nanochat chat-rl", __doc__))
    use_threads(settings.threads)
    world = join(pick_device(settings.device))
    check_division(settings)
    tokenizer = Tokenizer.load(tokenizer_dir())
    chat = load_checkpoint(find_checkpoint("sft", settings.sft_tag or None), with_optimizer=False)
    tag = settings.tag or chat.path.parent.name
    practice, unseen = open_questions(settings.task, 0, settings.held_out)
    held_out = unseen.some(settings.held_out)
    teacher = Teacher(settings, tokenizer, chat, tag, world, practice, held_out)
    model = teacher.model()
    practised = list(settings.kinds)
    if not practised:  # chosen by practice questions: the held-out ones decide nothing
        probe = shares(teacher.marks(model, practice.some(settings.probe)))
        practised = weak_kinds(probe, guessing(unseen), settings.most_kinds)
    wanted = wanted_kinds(practised, practice.kinds, settings.retain)
    counts = {kind: sum(q.kind == kind for q in held_out) for kind in practised}
    check_measurable(counts, settings.bar_points, settings.bar_kinds)
    before = teacher.marks(model, held_out)
    runs = [teacher.run(seed, wanted) for seed in settings.seeds]
    if not world.leads:
        return 0
    result = outcome(settings, practised, before, runs) | {"tag": tag}
    show(result)
    picture = curve_picture([one["curve"] for one in result["seeds"]], practised)
    write_atomically(report_dir() / "rl.svg", picture)
    record("rl", result)
    if settings.json:
        print_json(result)
    return 0


if __name__ == "__main__":
    run(main)
