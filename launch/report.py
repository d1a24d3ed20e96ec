"""Make one offline HTML page about a run: `python launch/report.py --run FOLDER`."""

import sys
from pathlib import Path

# Run as a file from anywhere: the floors lie beside this folder, and its own names shadow nothing.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from engine.report.page import ReportConfig, write_report
from launch.cli import parse, run_main

EXAMPLES = """
  python launch/report.py --run runs/quickstart
  python launch/report.py --run runs/mine --output mine.html
"""


def main() -> None:
    """Read the flags and write the page."""
    config = parse(
        ReportConfig,
        description="Make one offline HTML page about a run: scores, pictures, curves, settings.",
        examples=EXAMPLES,
    )
    write_report(config, lambda line: print(line, flush=True))


if __name__ == "__main__":
    run_main(main)
