"""`nanochat chat-web` with one fault in it, which a test plans while the server runs.

`python tests/faulty_server.py FLAGS`: the flags are chat-web's. The file that PLAN_FILE names holds
the plan, such as `nan 8`: when 8 answers are open, all rows write and the others wait, one row's
scores are no numbers. Until then whoever is in the middle of an answer is held there, so what a
fault meets does not depend on how fast the machine is. A plan is carried out once, and then told
in a line on stdout. Plans: nan, raise, kill (each with a number of answers), `leave ANSWERS GOING`
(holds one while its prompt is read, says `reads`, until so many were left by their clients),
`hold`, and `slow SECONDS` for each step. Everything else is the real server.
Used by test_served_faults.py. Read: Faults.step -> let -> scores -> main.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

import nanochat.scheduler
from nanochat.cli import run
from nanochat.scheduler import Ended, Request, Scheduler, Written
from scripts import chat_web

BEGUN = 5  # so many tokens are the middle of an answer


class Faults:
    """Stands around a scheduler's step and the model's scores."""

    def __init__(self, plan: Path) -> None:
        self.plan = plan
        self.due = ""  # what happens to the next scores
        self.told = False  # that a prompt is held in the middle
        self.step_of, self.scores_of = Scheduler.step, nanochat.scheduler.next_scores

    def put_in(self) -> None:
        """From now on every scheduler has the faults."""
        faults = self

        def step(
            self: Scheduler, meanwhile: Callable[[], None] = lambda: None
        ) -> list[Written | Ended]:
            return faults.step(self, meanwhile)

        Scheduler.step = step  # type: ignore[method-assign]
        nanochat.scheduler.next_scores = self.scores  # type: ignore[assignment]

    def step(self, scheduler: Scheduler, meanwhile: Callable[[], None]) -> list[Written | Ended]:
        words = self.plan.read_text().split() if self.plan.exists() else []
        if words and not self.let(scheduler, *words):
            meanwhile()  # what was written goes to its readers
            time.sleep(0.002)
            scheduler.news = []
            return scheduler.news
        return self.step_of(scheduler, meanwhile)

    def let(self, scheduler: Scheduler, what: str, *numbers: str) -> bool:
        """May the next step be done? When all is as planned, the fault is due in it."""
        written = [len(request.answer.tokens) for request in scheduler.running]
        if what == "slow":
            time.sleep(float(numbers[0]))
            return True
        if what == "hold":
            return max(written, default=0) < BEGUN
        open_now = everyone(scheduler)
        if what == "leave":
            return self.let_leave(scheduler, open_now, *map(int, numbers))
        if len(open_now) < int(numbers[0]):
            return max(written, default=0) < BEGUN
        if len(written) == min(scheduler.settings.rows, len(open_now)) and min(written) >= BEGUN:
            self.due = what
            self.done(what)
        return True

    def let_leave(
        self, scheduler: Scheduler, open_now: list[Request], count: int, going: int
    ) -> bool:
        reading = scheduler.reading
        if len(open_now) < count:
            return not scheduler.running
        if reading is None or not 0 < reading.read < len(reading.tokens):
            return True
        if not self.told:  # now the clients may leave: before, a step would drop them too early
            print("reads", flush=True)
            self.told = True
        gone = [request for request in open_now if request.cancelled]
        if len(gone) < going:
            return False
        self.told = False
        states = {id(request): "decode" for request in scheduler.running}
        states |= {id(request): "queue" for request in scheduler.waiting} | {id(reading): "prefill"}
        self.done("left " + " ".join(states[id(request)] for request in gone))
        return True

    def scores(self, *given: Any) -> Tensor:
        due, self.due = self.due, ""
        if due == "kill":
            raise SystemExit  # goes through every `except Exception`: the thread ends
        if due == "raise":
            raise RuntimeError("the fault that the test planned")
        logits = self.scores_of(*given)
        if due == "nan":
            assert len(logits) > 1, "neighbours are planned"
            logits[1, 7] = float("nan")
        return logits

    def done(self, said: str) -> None:
        self.plan.unlink()
        print(said, flush=True)


def everyone(scheduler: Scheduler) -> list[Request]:
    """All that the scheduler knows, the longest here first."""
    reading = [] if scheduler.reading is None else [scheduler.reading]
    return [*scheduler.running, *reading, *scheduler.waiting]


if __name__ == "__main__":
    Faults(Path(os.environ["PLAN_FILE"])).put_in()
    run(chat_web.main)
