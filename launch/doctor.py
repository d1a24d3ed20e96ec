"""Look this machine over: `python launch/doctor.py`."""

import json
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path

# Run as a file from anywhere: the floors lie beside this folder, and its own names shadow nothing.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from launch.cli import BAD_INPUT, open_words, run_main

EXAMPLES = """
  python launch/doctor.py
  python launch/doctor.py --output_dir /mnt/runs
  python launch/doctor.py --json > machine.json
"""


def main() -> int:
    """Probe, and print; 2 where something makes runs impossible."""
    parser = open_words(
        "What this machine has, which fast paths run, what is slow and how to mend it. Exit code 2 "
        "where runs are impossible.",
        EXAMPLES,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, no page")
    parser.add_argument(
        "--output_dir", default="runs", help="where runs would be written (default: runs)"
    )
    given = parser.parse_args()
    # Imported late: help and bad words need nothing.
    from engine.doctor.judge import judge
    from engine.doctor.run import examine
    from engine.doctor.table import page

    found = examine(given.output_dir)
    findings = judge(found)
    counts = Counter(finding.severity for finding in findings)
    if given.json:
        facts = {f"{kind}s": counts[kind] for kind in ("error", "warning")}
        facts |= {"findings": [asdict(one) for one in findings], "probes": found}
        print(json.dumps(facts, indent=1))
    else:
        print(page(found, findings))
    return BAD_INPUT if counts["error"] else 0


if __name__ == "__main__":
    run_main(main)
