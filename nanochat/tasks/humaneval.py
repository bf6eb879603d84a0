"""HumanEval: write a Python function from its docstring; its own tests decide (Chen 2021).

Called by catalogue.py. A row: task_id, prompt, canonical_solution, test, entry_point.
What a model writes is run, so it runs in the sandbox only: the runner arrives as an argument, and
without one there is no grading. Read: program_in -> HumanEval.
"""

import re
from collections.abc import Callable

from nanochat.chat_format import Conversation
from nanochat.tasks.table import HubFiles, Table, check_columns
from nanochat.tasks.task import NothingToGrade, Task, dialogue, field_of

FENCED = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.S)
IMPORT = re.compile(r"^(?:import|from)\s.*$", re.M)

Runner = Callable[[str], bool]  # a whole program -> did it end without an error?


def files(split: str) -> HubFiles:
    path = f"openai_humaneval/{split}-00000-of-00001.parquet"
    return HubFiles("humaneval", "openai/openai_humaneval", (path,))


def program_in(reply: str) -> str:
    """The first fenced block of a reply, or all of it.

    >>> program_in("Here it is:\\n```python\\nx = 1\\n```\\nGood luck!")
    'x = 1\\n'
    """
    found = FENCED.search(reply)
    return found[1] if found else reply


class HumanEval(Task):
    """Programming. `run` is the sandbox: it gets a program and says whether it passed."""

    name = "humaneval"

    def __init__(self, table: Table, run: Runner | None = None) -> None:
        check_columns(table, ("prompt", "canonical_solution", "test", "entry_point"))
        self.table, self.run = table, run

    def __len__(self) -> int:
        return len(self.table)

    def _field(self, index: int, name: str) -> str:
        text: str = field_of(self.table[index], name, str, self.table.where(index))
        return text

    def conversation(self, index: int) -> Conversation:
        prompt = self._field(index, "prompt")
        solution = f"```python\n{prompt}{self._field(index, 'canonical_solution')}\n```"
        return dialogue(prompt, solution)

    def program(self, index: int, reply: str) -> str:
        """The reply's function behind the prompt's imports, then the tests and the call of them."""
        imports = "\n".join(IMPORT.findall(self._field(index, "prompt")))
        check = f"check({self._field(index, 'entry_point')})"
        return "\n\n".join([imports, program_in(reply), self._field(index, "test"), check]) + "\n"

    def grade(self, index: int, reply: str) -> bool:
        """Run the reply's program against the tests. Raises NothingToGrade without a sandbox."""
        if self.run is None:
            raise NothingToGrade(
                "humaneval runs what the model wrote, and there is no sandbox here to run it in"
            )
        return self.run(self.program(index, reply))
