"""Make one offline HTML page about a run: `python launch/report.py --run FOLDER`."""

import sys
from pathlib import Path

# Run as a file from anywhere: the floors lie beside this folder, and its own names shadow nothing.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from engine.report.page import ReportConfig, write_report
from launch.cli import parse, run_main

EXAMPLES = """
  python launch/report.py --run runs/quickstart
  python launch/report.py --run runs/clean --output clean.html     # captioning and filtering
  python launch/report.py --run runs/bootstrap                     # its rounds side by side
"""


def main() -> None:
    """Read the flags and write the page."""
    config = parse(
        ReportConfig,
        description="Make one offline HTML page about a run: scores, pictures, curves, settings; "
        "of captioning and filtering: both texts of each picture, thresholds to drag, reasons.",
        examples=EXAMPLES,
    )
    write_report(config, lambda line: print(line, flush=True))


if __name__ == "__main__":
    run_main(main)
