"""Fetch the conversations and exams of other people's data sets: SmolTalk, MMLU, ARC and more.

Goes on where an earlier call stopped and fetches nothing twice. `core` is the DCLM bundle for
`nanochat base-eval`. HF_ENDPOINT names a mirror, HF_TOKEN a login.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from nanochat.cli import parse, print_json, run
from nanochat.core_eval_bundle import fetch_bundle
from nanochat.download import Hub
from nanochat.download_screen import on_screen
from nanochat.paths import data_dir
from nanochat.tasks.catalogue import SOURCES, fetch_tasks


@dataclass(frozen=True)
class TaskDownloadSettings:
    """What to fetch."""

    tasks: str = "all"
    """arc-easy, arc-challenge, mmlu, gsm8k, humaneval, smoltalk, spellingbee, core; with commas
    between them, or all."""
    workers: int = 4
    """Files fetched at the same time."""
    json: bool = False
    """Print what was done as JSON on the last line."""


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(TaskDownloadSettings, argv, "nanochat task-download", __doc__)
    everything = [*SOURCES, "spellingbee", "core"]
    wanted = everything if settings.tasks == "all" else settings.tasks.replace(" ", "").split(",")
    hub = Hub.from_environment()
    with on_screen() as report:
        names = [name for name in wanted if name != "core"]
        fetched, files = fetch_tasks(names, hub, settings.workers, report)
        if "core" in wanted:
            fetched, files = fetched + fetch_bundle(hub, report), files + 1
    folder = data_dir("tasks")
    print(f"{', '.join(wanted)}: {fetched} fetched, {files - fetched} were there, in {folder}")
    if settings.json:
        print_json({"tasks": wanted, "fetched": fetched, "files": files, "folder": str(folder)})
    return 0


if __name__ == "__main__":
    run(main)
