"""Index shards and verify them: `python launch/pack.py index|verify SHARD...`."""

import sys
from pathlib import Path

# Run as a file from anywhere: the floors lie beside this folder, and its own names shadow nothing.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from engine.config import ConfigError
from launch.cli import nearest, open_words, run_main

EXAMPLES = """
  python launch/pack.py index shards/00000.tar shards/00001.tar
  python launch/pack.py index 'shards/{00000..01399}.tar'
  python launch/pack.py verify shards other_shards 'more/*/*.tar'
"""
ACTIONS = ("index", "verify")


def flags() -> tuple[str, list[str]]:
    """Read the command line: what to do, and with which shards.

    Raises:
        ConfigError: an unknown action, or no shards.
    """
    parser = open_words(
        "Index tar shards, or read every byte of them again and compare with their indexes.",
        EXAMPLES,
    )
    parser.add_argument(
        "action",
        help="index: build the index beside each shard that has none; verify: exit with 2 and "
        "name every shard and sample that is damaged or missing",
    )
    parser.add_argument(
        "shards",
        nargs="*",
        metavar="SHARD",
        help="a .tar file, a folder of them, a glob, or a {00000..00009} range",
    )
    given = parser.parse_args()
    if given.action not in ACTIONS:
        raise ConfigError(f"unknown action {given.action!r}{nearest(given.action, list(ACTIONS))}")
    if not given.shards:
        raise ConfigError(f"{given.action}: no shard named; --help shows examples")
    return given.action, given.shards


def main() -> None:
    """Index or verify, and sum up in one line."""
    action, places = flags()
    # Imported late: help and bad words need no Arrow.
    from engine.data.pack import index_shards, verify_shards

    work, verdict = {"index": (index_shards, "indexed"), "verify": (verify_shards, "whole")}[action]
    done = work(places, lambda line: print(line, flush=True))
    size = f"{done.size / 1e6:.1f} MB"
    print(f"shards: {done.shards}, samples: {done.samples}, {size}; all {verdict}")


if __name__ == "__main__":
    run_main(main)
