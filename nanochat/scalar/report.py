"""What a run leaves for people (report.md) and for programs (report.json, losses.csv).

Called by `nanochat scalar train` when the run ends. Read: card -> write_report.
"""

import json
from pathlib import Path
from typing import Any

from nanochat.scalar.checkpoint import write_atomically


def card(record: dict[str, Any]) -> str:
    """A run in a few lines of Markdown."""
    lines = [
        f"# {record['model']}, {record['parameters']:,} parameters, {record['steps']:,} steps",
        "",
        f"- engine: {record['engine']}"
        + (f", replayed in {record['replay']}" if record["replay"] else ""),
        f"- text: {record['train_documents']:,} documents, {record['vocabulary']} tokens,"
        f" style {record['style']}, seed {record['seed']}",
    ]
    if record["final_loss"] is not None:
        lines.append(
            f"- loss: {record['final_loss']:.4f} at the last step,"
            f" {record['mean_loss_last_50']:.4f} on average over the last 50"
        )
    held_out = record["held_out"]
    if held_out:
        lines += [
            f"- held out: {held_out['nats_per_char']:.4f} ± {held_out['interval95']:.4f}"
            f" nats/char, {held_out['bits_per_byte']:.4f} bits/byte"
            f" ({held_out['documents']:,} documents)",
            f"- counting pairs instead: {record['counting_baseline_nats_per_char']:.4f} nats/char",
        ]
    if record["steps_per_s"]:
        lines.append(
            f"- speed: {record['steps_per_s']:,.0f} steps/s, {record['tokens_per_s']:,.0f} tokens/s"
        )
    return "\n".join(lines) + "\n"


def write_report(folder: Path, record: dict[str, Any]) -> None:
    """Leave report.json, losses.csv and report.md in the run's folder."""
    short = {name: value for name, value in record.items() if name != "losses"}
    rows = "".join(f"{step},{loss!r}\n" for step, loss in enumerate(record["losses"], 1))
    write_atomically(folder / "report.json", json.dumps(short, indent=1) + "\n")
    write_atomically(folder / "losses.csv", "step,loss\n" + rows)
    write_atomically(folder / "report.md", card(record))
