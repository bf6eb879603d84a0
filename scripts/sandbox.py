"""Show that a learner's code cannot harm this machine: sandbox check runs 25 attacks as probes.

Each attack runs in the box and, as its positive control, without it. `sandbox run FILE` runs a
program in the box. Where no tier is possible both say why, and nothing runs.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import httpx
import tyro

from nanochat.cli import parse, print_json, run
from nanochat.errors import UserError
from nanochat.execution import Limits, pick_tier, why_not
from nanochat.execution import run as run_boxed
from nanochat.execution_attacks import Finding, load_attacks, scene, try_attack
from nanochat.execution_boxes import TIERS, Tier


class NothingToRun(UserError):
    """`sandbox run` without a readable file."""


@dataclass(frozen=True)
class SandboxSettings:
    """What to do, and where."""

    action: tyro.conf.Positional[Literal["check", "run"]]
    """check: run the attacks. run: run a Python file."""
    file: tyro.conf.Positional[Path | None] = None
    """The program for `run`."""
    tier: Tier | None = None
    """bubblewrap or landlock; none: the strongest that works here."""
    wall_s: float = 10.0
    """Seconds that `run` gives the program."""
    json: bool = False
    """Print one JSON object as the last line."""


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(SandboxSettings, argv, "nanochat sandbox", __doc__)
    for tier in TIERS:
        print(f"{tier}: {why_not(tier) or 'works here'}")
    tier = pick_tier(settings.tier)
    if settings.action == "run":
        return run_file(settings, tier)
    findings = []
    with scene() as bait:
        for attack in load_attacks():
            findings.append(show(try_attack(attack, bait, tier)))
    findings += [show(finding) for finding in attack_a_bridge()]
    contained = sum(finding.contained and finding.control for finding in findings)
    print(f"{contained} of {len(findings)} attacks contained in the {tier} tier")
    if settings.json:
        attacks = [asdict(finding) for finding in findings]
        print_json({"tier": tier, "contained": contained, "of": len(findings), "attacks": attacks})
    return 0 if contained == len(findings) else 1


def show(finding: Finding) -> Finding:
    """Print what became of one attack."""
    word = "contained" if finding.contained else "GOT OUT"
    control = "" if finding.control else "; ITS CONTROL FAILED, so this proves nothing"
    print(f"  {finding.number:>2} {word}: {finding.title} ({finding.detail}){control}", flush=True)
    return finding


def attack_a_bridge() -> list[Finding]:
    """Start a bridge of our own on a free port and attack that one."""
    from nanochat.serve.bridge_app import create_app
    from nanochat.serve.bridge_attacks import Bait, attack_bridge
    from nanochat.serve.bridge_guard import mint_token
    from nanochat.serve.bridge_server import bridge_in_thread, open_loopback
    from nanochat.serve.bridge_settings import BridgeSettings
    from nanochat.serve.server import address_of

    bound, token = open_loopback(0), mint_token()
    app, address = create_app(BridgeSettings(), token, bound.getsockname()[1]), address_of(bound)
    with bridge_in_thread(app, bound), httpx.Client(base_url=address, timeout=60) as client:
        return attack_bridge(Bait(address, token, client))


def run_file(settings: SandboxSettings, tier: Tier) -> int:
    """Run a file in the box; the exit code is the program's."""
    if settings.file is None or not settings.file.is_file():
        raise NothingToRun(
            f"{settings.file or 'no file'}: name a Python file, as in sandbox run x.py"
        )
    streams = {"stdout": sys.stdout, "stderr": sys.stderr}
    outcome = run_boxed(
        settings.file.read_text(encoding="utf-8"),
        Limits(wall_s=settings.wall_s, cpu_s=int(settings.wall_s) + 1),
        tier=tier,
        on_output=lambda name, text: print(text, end="", file=streams[name], flush=True),
    )
    print(f"{outcome.ended} after {outcome.seconds} s, {outcome.memory_bytes / 1e6:.0f} MB")
    if settings.json:
        print_json({key: value for key, value in asdict(outcome).items() if key != "pictures"})
    return 0 if outcome.ok else 1


if __name__ == "__main__":
    run(main)
