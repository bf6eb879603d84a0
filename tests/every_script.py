"""What test_distributed_work.py runs, alone or under torchrun: commands one after another.

[torchrun ...] tests/every_script.py BASE PLAN      PLAN is a JSON list of commands, each of words

One launch for all of them: importing PyTorch takes longer than the commands.
"""

import importlib
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from nanochat.cli import run


def main(base: str, plan: list[list[str]]) -> int:
    os.environ["NANOCHAT_BASE_DIR"] = base
    for verb, *flags in plan:
        code = importlib.import_module(f"scripts.{verb.replace('-', '_')}").main(flags)
        if code:
            return code
    return 0


if __name__ == "__main__":
    run(lambda: main(sys.argv[1], json.loads(sys.argv[2])))
