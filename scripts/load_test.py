"""Load-test a chat server: many clients at once, or a crowd; how fast, how many in time, who fails.

`nanochat load-test --self-host --clients 16` starts the real server with the trained model and
compares 16 clients with one; `--rate 20` sends requests at random moments instead; `--overload 4`
finds what the server can take and sends four times as much.
"""

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from nanochat.atomic import write_atomically
from nanochat.cli import parse, print_json, run
from nanochat.load_client import Target
from nanochat.load_host import hosted
from nanochat.load_plan import LoadSettings, check
from nanochat.load_report import picture, record, summary, table
from nanochat.load_run import whole_test
from nanochat.paths import report_dir


def main(argv: Sequence[str] | None = None) -> None:
    settings = parse(LoadSettings, argv, "nanochat load-test", __doc__)
    check(settings)
    place = Path(settings.picture) if settings.picture else report_dir() / "load_test.svg"
    with hosted(settings) if settings.self_host else nullcontext(settings.url) as url:
        test = asyncio.run(whole_test(Target(settings, url), settings))
    rows = [summary(phase, settings) for phase in test.phases]
    print(table(rows))
    place.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(place, picture(rows, test.phases))
    print(f"picture: {place}")
    if settings.json:
        print_json(record(test, rows, settings))


if __name__ == "__main__":
    run(main)
