"""SpellingBee: how often a letter occurs in a word, and how words are spelled.

Called by catalogue.py. Small models see tokens, not letters: they have to learn how their tokens
are spelled. Question `index` is drawn from a stream named after its number, so the task needs no
file but a list of words: the large one (`nanochat task-download --tasks spellingbee`) when it is
there, else TinyWorld's. Read: word_list -> SimpleSpelling -> SpellingBee.
"""

from functools import cache
from pathlib import Path
from random import Random

from nanochat.chat_format import Conversation
from nanochat.paths import data_dir
from nanochat.tasks.gsm8k import final_number
from nanochat.tasks.task import Task, dialogue
from nanochat.tinyworld_settings import words

WORDS_URL = "https://raw.githubusercontent.com/dwyl/english-words/refs/heads/master/words_alpha.txt"
TEST_NUMBERS = 10_000_000  # test questions come from streams no training question uses
ALPHABET = "abcdefghijklmnopqrstuvwxyz"
FORMS = (
    "How many {letter} are in the word {word}",
    "How many {letter} are in {word}",
    "How many times does {letter} occur in {word}",
    "How often does the letter {letter} appear in the word {word}",
    "Count the letter {letter} in {word}",
    "Count how many {letter} there are in the word {word}",
    "What is the number of {letter} in {word}",
    "In the word {word}, how many {letter} are there",
    "Combien de {letter} y a-t-il dans {word}",
    "Wie viele {letter} sind in {word}",
    "¿Cuántas {letter} hay en {word}",
    "Quante {letter} ci sono in {word}",
)


def words_file() -> Path:
    return data_dir("tasks") / "spellingbee" / "words_alpha.txt"


@cache
def word_list(path: Path) -> tuple[str, ...]:
    """Lower-case words of three letters or more, from the file or from TinyWorld's lists."""
    if path.is_file():
        found = path.read_text(encoding="utf-8").split()
    else:
        found = sorted(set(_texts_in(words())))
    return tuple(w for w in found if len(w) >= 3 and w.isascii() and w.isalpha() and w.islower())


def _texts_in(value: object) -> list[str]:
    """Every word anywhere in TinyWorld's lists."""
    if isinstance(value, str):
        return value.split()
    if isinstance(value, dict):
        return _texts_in([*value.keys(), *value.values()])
    return [word for part in value for word in _texts_in(part)] if isinstance(value, list) else []


class Drawn(Task):
    """A task whose questions are drawn by number; `split` keeps training and test apart."""

    def __init__(self, size: int, split: str = "train", path: Path | None = None) -> None:
        self.size, self.first = size, TEST_NUMBERS if split == "test" else 0
        self.path = path or words_file()

    def __len__(self) -> int:
        return self.size

    def dice(self, index: int) -> Random:
        return Random(f"{self.name}/{self.first + index}")

    def word(self, dice: Random) -> str:
        return dice.choice(word_list(self.path))


class SimpleSpelling(Drawn):
    """Spell a word: strawberry:s,t,r,a,w,b,e,r,r,y"""

    name = "simplespelling"

    def conversation(self, index: int) -> Conversation:
        word = self.word(self.dice(index))
        return dialogue(f"Spell the word: {word}", f"{word}:{','.join(word)}")

    def grade(self, index: int, reply: str) -> bool:
        word = self.word(self.dice(index))
        return reply.strip() == f"{word}:{','.join(word)}"


class SpellingBee(Drawn):
    """Count a letter: spelled out letter by letter, then added up with the calculator."""

    name = "spellingbee"

    def question(self, index: int) -> tuple[str, str, str]:
        """(question, word, letter). Nine times in ten the letter is one of the word's."""
        dice = self.dice(index)
        word = self.word(dice)
        letter = dice.choice(word if dice.random() < 0.9 else ALPHABET)
        form = dice.choice(FORMS)
        quote = dice.choice(("", "'", '"'))
        text = form.format(letter=f"{quote}{letter}{quote}", word=f"{quote}{word}{quote}")
        return text + dice.choice(("", "?")), word, letter

    def conversation(self, index: int) -> Conversation:
        """The question, and an answer that counts letter by letter and checks with Python."""
        question, word, letter = self.question(index)
        count, lines, marks = 0, [], []
        for place, each in enumerate(word, 1):
            count += each == letter
            marks.append(str(int(each == letter)))
            hit = f" hit! count={count}" if each == letter else ""
            lines.append(f"{place}:{each}{hit}")
        spelled = "\n".join([f"{word}:{','.join(word)}", *lines])
        start = f"We count the letter {letter} in {word}.\n\n{spelled}\n\nAdding up: "
        answer = [
            {"type": "text", "text": start},
            {"type": "python", "text": "+".join(marks)},
            {"type": "python_output", "text": str(count)},
            {"type": "text", "text": f"\n\nSo the answer is\n\n#### {count}"},
        ]
        return dialogue(question, answer)

    def grade(self, index: int, reply: str) -> bool:
        _, word, letter = self.question(index)
        return final_number(reply) == str(word.count(letter))
