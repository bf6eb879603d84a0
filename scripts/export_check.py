"""Compare an exported model with ours on fifty prompts, loaded by the libraries it was made for.

Needs the extra `export`. Prints the largest difference of any logit; exit code 1 above --tolerance.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from nanochat.cli import parse, print_json, run
from nanochat.export_check import check_export


@dataclass(frozen=True)
class ExportCheckSettings:
    """What to compare."""

    out: tyro.conf.Positional[Path]  # the folder that export-hf wrote
    tolerance: float = 1e-4  # largest difference of a logit that counts as equal
    json: bool = False  # print one JSON object as the last line


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(ExportCheckSettings, argv, "nanochat export-check", __doc__)
    result = check_export(settings.out)
    worst = max(result["max_logit_diff"], result.get("max_onnx_diff", 0.0))
    fine = worst <= settings.tolerance and result["tokens_equal"]
    print(
        f"{result['prompts']} prompts against transformers: largest difference of a logit "
        f"{result['max_logit_diff']:.1e}; tokens {'equal' if result['tokens_equal'] else 'differ'}"
    )
    if "max_onnx_diff" in result:
        print(f"the same against onnxruntime: {result['max_onnx_diff']:.1e}")
    if settings.json:
        print_json(result)
    return 0 if fine else 1


if __name__ == "__main__":
    run(main)
