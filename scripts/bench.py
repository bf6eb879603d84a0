"""Measure this machine: `nanochat bench train` times full training steps beside a bare product,
`nanochat bench speculative` plain against speculative decoding, `nanochat bench processes` one
process against several.

`observe` compares the requests a second of a trivial route with and without metrics and traces;
`sse` times the frames of a stream; `engine` the tokens a second of one answer and of 16; `drain`
how long a server takes to leave while it writes; `trace` what open and closed taps cost; `sandbox`
how long a learner waits for a program; `core` the evaluation in batches and one at a time.
Timings live here, never in a test. A noisy machine shows in the spread; run it on a quiet one.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from nanochat.cli import parse, print_json, run
from nanochat.errors import UserError

# Name -> module, settings, function. A bench loads only what it measures: memory is a figure too.
BENCHES = {
    "core": ("core_eval_bench", "CoreBenchSettings", "bench_core"),
    "drain": ("load_drain", "DrainBenchSettings", "bench_drain"),
    "engine": ("engine_bench", "EngineBenchSettings", "bench_engine"),
    "observe": ("serve.http_bench", "ObserveBenchSettings", "bench_observe"),
    "processes": ("bench_processes", "ProcessBenchSettings", "bench_processes"),
    "sandbox": ("serve.sandbox_bench", "SandboxBenchSettings", "bench_sandbox"),
    "speculative": ("speculative_bench", "SpeculativeBenchSettings", "bench_speculative"),
    "sse": ("serve.sse_bench", "SseBenchSettings", "bench_sse"),
    "trace": ("engine_trace_bench", "TraceBenchSettings", "bench_trace"),
    "train": ("bench", "TrainBenchSettings", "bench_train"),
}


class NoSuchBench(UserError):
    """A bench was asked for that does not exist."""


def main(argv: Sequence[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] not in BENCHES:
        if argv and argv[0] in ("-h", "--help"):
            print(f"usage: nanochat bench {{{','.join(BENCHES)}}} [flags]\n\n{__doc__}")
            return 0
        raise NoSuchBench(f"bench {argv[0] if argv else '(none)'}: choose {', '.join(BENCHES)}")
    place, kind, function = BENCHES[argv[0]]
    module = import_module(f"nanochat.{place}")
    settings: Any = parse(getattr(module, kind), argv[1:], f"nanochat bench {argv[0]}", __doc__)
    result = getattr(module, function)(settings)
    for name, value in result.items():
        print(f"{name:<18} {value}")
    if settings.json:
        print_json(result)
    return 0


if __name__ == "__main__":
    run(main)
