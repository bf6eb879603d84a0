"""SmolTalk: 460 thousand conversations written for small models (HuggingFaceTB/smol-smoltalk).

Called by catalogue.py, for training only. A row: messages, a list of {content, role}, and source.
Some begin with a system message; the tokenizer merges it into the first question.
"""

from nanochat.chat_format import BadConversation, Conversation, segments
from nanochat.tasks.table import HubFiles, Table, check_columns
from nanochat.tasks.task import BrokenTask, Task, field_of

SHARDS = {"train": 4, "test": 1}


def files(split: str) -> HubFiles:
    count = SHARDS[split]
    paths = tuple(f"data/{split}-{n:05d}-of-{count:05d}.parquet" for n in range(count))
    return HubFiles("smoltalk", "HuggingFaceTB/smol-smoltalk", paths)


class SmolTalk(Task):
    """Everyday conversations, rewriting, summaries, a little reasoning."""

    name = "smoltalk"

    def __init__(self, table: Table) -> None:
        check_columns(table, ("messages",))
        self.table = table

    def __len__(self) -> int:
        return len(self.table)

    def conversation(self, index: int) -> Conversation:
        """A conversation of the table, checked."""
        where = self.table.where(index)
        rows = field_of(self.table[index], "messages", list, where)
        try:
            messages = [{"role": row["role"], "content": row["content"]} for row in rows]
            conversation = {"messages": messages}
            list(segments(conversation))
        except (KeyError, TypeError, BadConversation) as error:
            raise BrokenTask(f"{where} is not a conversation ({error})") from error
        return conversation
