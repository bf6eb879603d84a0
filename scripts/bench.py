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
from collections.abc import Callable, Sequence
from typing import Any

from nanochat.bench import TrainBenchSettings, bench_train
from nanochat.bench_processes import ProcessBenchSettings, bench_processes
from nanochat.cli import parse, print_json, run
from nanochat.core_eval_bench import CoreBenchSettings, bench_core
from nanochat.engine_bench import EngineBenchSettings, bench_engine
from nanochat.engine_trace_bench import TraceBenchSettings, bench_trace
from nanochat.errors import UserError
from nanochat.load_drain import DrainBenchSettings, bench_drain
from nanochat.serve.http_bench import ObserveBenchSettings, bench_observe
from nanochat.serve.sandbox_bench import SandboxBenchSettings, bench_sandbox
from nanochat.serve.sse_bench import SseBenchSettings, bench_sse
from nanochat.speculative_bench import SpeculativeBenchSettings, bench_speculative

BENCHES: dict[str, tuple[type, Callable[[Any], dict[str, Any]]]] = {
    "engine": (EngineBenchSettings, bench_engine),
    "train": (TrainBenchSettings, bench_train),
    "processes": (ProcessBenchSettings, bench_processes),
    "core": (CoreBenchSettings, bench_core),
    "speculative": (SpeculativeBenchSettings, bench_speculative),
    "observe": (ObserveBenchSettings, bench_observe),
    "drain": (DrainBenchSettings, bench_drain),
    "sse": (SseBenchSettings, bench_sse),
    "trace": (TraceBenchSettings, bench_trace),
    "sandbox": (SandboxBenchSettings, bench_sandbox),
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
    settings_type, bench = BENCHES[argv[0]]
    settings: Any = parse(settings_type, argv[1:], f"nanochat bench {argv[0]}", __doc__)
    result = bench(settings)
    for name, value in result.items():
        print(f"{name:<18} {value}")
    if settings.json:
        print_json(result)
    return 0


if __name__ == "__main__":
    run(main)
