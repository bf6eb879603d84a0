"""What a run leaves for later: log.jsonl, config.json and pictures, beside its checkpoints.

    <base>/checkpoints/<stage>/<tag>/log.jsonl     one JSON object a line: step, loss, rate, tokens
    <base>/checkpoints/<stage>/<tag>/config.json   settings, commit, versions, tokenizer, data
    <base>/checkpoints/<stage>/<tag>/*.svg         a curve for each of CURVES that was measured

Called by train_loop.py. They are written always; Weights & Biases is told too when asked.
Read: RunLog -> note -> draw -> start_wandb. A resumed run goes on in the same log.
"""

import json
from pathlib import Path
from typing import Any, Literal

from nanochat.atomic import write_atomically
from nanochat.errors import UserError
from nanochat.picture import line_chart_svg

Wandb = Literal["off", "offline", "online"]
CURVES = {  # key of the log -> what the picture says
    "loss": "training loss, nats a token",
    "val_bpb": "bits per byte, unseen text",
    "reward": "share of answers that were right",
}
MOST_POINTS = 300  # a picture cannot show more


class WandbMissing(UserError):
    """Weights & Biases was asked for and is not installed."""


class RunLog:
    """The log of one run. `step` is where the run begins: later lines of an older try go."""

    def __init__(
        self, folder: Path, config: dict[str, Any], step: int, wandb: Wandb = "off", name: str = ""
    ) -> None:
        self.folder, self.path = folder, folder / "log.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        self.rows = [row for row in read_log(self.path) if row["step"] <= step] if step else []
        write_atomically(self.path, "".join(map(line_of, self.rows)))
        write_atomically(folder / "config.json", json.dumps(config, indent=1, sort_keys=True))
        self.remote = start_wandb(wandb, folder, config, name) if wandb != "off" else None

    def note(self, row: dict[str, Any]) -> None:
        """Append what was measured; `step` is one of its keys."""
        self.rows.append(row)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(line_of(row))
        if self.remote is not None:
            self.remote.log({k: v for k, v in row.items() if k != "step"}, step=row["step"])

    def draw(self) -> list[Path]:
        """A picture for each curve that has at least two points; returns their files."""
        drawn = []
        for key, meaning in CURVES.items():
            points = [
                (float(r["step"]), float(r[key])) for r in self.rows if r.get(key) is not None
            ]
            if len(points) < 2:
                continue
            thin = points[:: -(-len(points) // MOST_POINTS)]
            title = f"{self.folder.parent.name}/{self.folder.name}: {meaning}"
            path = self.folder / f"{key}.svg"
            write_atomically(path, line_chart_svg(title, {key: thin}, "step", meaning))
            drawn.append(path)
        return drawn

    def close(self) -> None:
        """Draw, and let Weights & Biases finish."""
        self.draw()
        if self.remote is not None:
            self.remote.finish()


def line_of(row: dict[str, Any]) -> str:
    return json.dumps(row, allow_nan=False) + "\n"


def read_log(path: Path) -> list[dict[str, Any]]:
    """Every whole line; one that a crash cut off is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def start_wandb(
    mode: Literal["offline", "online"], folder: Path, config: dict[str, Any], name: str
) -> Any:
    """A run of Weights & Biases; offline keeps it in `folder`/wandb for `wandb sync`."""
    try:
        import wandb
    except ImportError as error:
        raise WandbMissing(
            "--wandb needs a package that is not installed: pip install 'nanochat[wandb]'"
        ) from error
    settings = wandb.Settings(silent=True, console="off")
    return wandb.init(
        project="nanochat", name=name, dir=folder, mode=mode, config=config, settings=settings
    )
