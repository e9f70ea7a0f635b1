"""``./dev bench``: run the measurements and print one table. ``--help`` tells how."""

import argparse
import importlib
import json
import logging
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import structlog

from tests.benchmarks import load, machine, report
from tests.benchmarks.stage import Stage

BENCHMARKS: Final = (
    "accept", "one_client", "bulk", "fsyncs", "forming", "sending", "collecting", "beside_results", "end_to_end",
    "backlog", "start", "upstream_calls", "idle",
)  # fmt: skip
BEGIN: Final = "<!-- measured: begin -->"
END: Final = "<!-- measured: end -->"


def main() -> int:
    options = _options()
    if options.list:
        for name in BENCHMARKS:
            print(f"{name:16} {_first_line(name)}")
        return 0
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    findings = []
    with tempfile.TemporaryDirectory(prefix="unhurried-bench-", dir=options.folder) as folder:
        facts = machine.facts(Path(folder))
        stage = Stage(Path(folder), load.prepare(Path(folder)), rounds=2 if options.quick else 5, quick=options.quick)
        for name in options.only or BENCHMARKS:
            began = time.monotonic()
            for finding in importlib.import_module(f"tests.benchmarks.{name}").run(stage):
                findings.append(finding)
                print(" | ".join(cell for cell in finding.cells if cell), file=sys.stderr, flush=True)
            print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    if options.json:
        print(json.dumps(report.as_json(findings, facts), indent=1, ensure_ascii=False))
    else:
        print(_shown(findings, facts))
    if options.write:
        _write(options.write, _shown(findings, facts))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./dev bench", description=__doc__)
    parser.add_argument("--only", action="append", metavar="NAME", choices=BENCHMARKS, help="this one; may be repeated")
    parser.add_argument("--list", action="store_true", help="name the benchmarks and end")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds: to try things, not to judge")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the table between the markers of this file")
    parser.add_argument(
        "--folder", type=Path, default=Path("/var/tmp"), help="on the disk to measure; default %(default)s"
    )
    return parser.parse_args()


def _first_line(name: str) -> str:
    module = importlib.import_module(f"tests.benchmarks.{name}")
    return (module.__doc__ or "").partition("\n")[0]


def _shown(findings: list[report.Finding], facts: dict[str, str]) -> str:
    machine_line = "; ".join(f"{name}: {value}" for name, value in facts.items())
    return f"{report.table(findings)}\n\nMeasured {time.strftime('%Y-%m-%d')}. {machine_line}."


def _write(path: Path, text: str) -> None:
    before, begin, rest = path.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"{path} has no {BEGIN} and {END}")
    path.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")


if __name__ == "__main__":
    sys.exit(main())
