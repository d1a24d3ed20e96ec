"""Index shards, verify them, or make them: `python launch/pack.py index|verify|convert ...`."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

# Run as a file from anywhere: the floors lie beside this folder, and its own names shadow nothing.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from engine.config import ConfigError
from launch.cli import nearest, open_words, run_main

EXAMPLES = """
  python launch/pack.py index shards/00000.tar shards/00001.tar
  python launch/pack.py index 'shards/{00000..01399}.tar'
  python launch/pack.py verify shards other_shards 'more/*/*.tar'
  python launch/pack.py convert pairs.csv --image_root pictures --output_dir web
  python launch/pack.py convert saved_dataset --split train --output_dir web
"""
ACTIONS = ("index", "verify", "convert")
ONE_SHARD = 1000


def flags() -> argparse.Namespace:
    """Read the command line: what to do, and with which shards.

    Raises:
        ConfigError: an unknown action, or no shards.
    """
    parser = open_words(
        "Index tar shards, read every byte of them again and compare, or make them of other pairs.",
        EXAMPLES,
    )
    parser.add_argument(
        "action",
        help="index: build the index beside each shard that has none; verify: exit with 2 and "
        "name every shard and sample that is damaged or missing; convert: write pairs of a list "
        "(.json, .csv, .tsv, .parquet), of a Hugging Face dataset (a folder of save_to_disk) or of "
        "shards into new shards with their indexes, a uid for each pair; what is left out is named "
        "in quarantine.jsonl beside them (rows from 0, without a CSV's head), and the code is 2 "
        "where that is a whole shard",
    )
    parser.add_argument(
        "shards",
        nargs="*",
        metavar="SHARD",
        help="a .tar file, a folder of them, a glob, or a {00000..00009} range; for convert also "
        "a list of pairs, or the folder of a saved dataset",
    )
    parser.add_argument("--output_dir", help="of convert: folder of the new shards")
    parser.add_argument("--image_root", help="of convert: where relative picture paths start from")
    parser.add_argument("--split", help="of convert: which of a saved dataset that has several")
    parser.add_argument(
        "--samples_per_shard", type=int, default=ONE_SHARD, help="of convert (default: %(default)s)"
    )
    given = parser.parse_args()
    if given.action not in ACTIONS:
        raise ConfigError(f"unknown action {given.action!r}{nearest(given.action, list(ACTIONS))}")
    if not given.shards:
        raise ConfigError(f"{given.action}: no shard named; --help shows examples")
    of_convert = given.output_dir or given.image_root or given.split
    of_convert = of_convert or given.samples_per_shard != ONE_SHARD
    if given.action != "convert" and of_convert:
        raise ConfigError(f"{given.action}: --output_dir and the like belong to convert")
    if given.action == "convert" and not given.output_dir:
        raise ConfigError("convert: no --output_dir named for the new shards")
    if given.samples_per_shard < 1:
        raise ConfigError(f"samples_per_shard is {given.samples_per_shard}: must be at least 1")
    return given


def convert_pairs(given: argparse.Namespace, say: Callable[[str], None]) -> None:
    """Make shards of pairs; what is left out is shown, and summed up in the last line.

    Raises:
        ConfigError: nothing was made, or all but what lies in shards that cannot be read.
    """
    from engine.data.left_out import QUARANTINE, unreadable
    from engine.data.pack_pairs import convert

    made = convert(
        given.shards,
        Path(given.output_dir),
        image_root=given.image_root,
        split=given.split,
        samples_per_shard=given.samples_per_shard,
        progress=say,
    )
    for line in made.first:
        say(f"left out: {line}")
    counts = [f"{count} {reason}" for reason, count in made.left_out.most_common()]
    if made.damaged:
        counts.append(f"{len(made.damaged)} {'shard' if len(made.damaged) == 1 else 'shards'}")
    hint = "; is --image_root right?" if made.left_out["missing"] > made.pairs else ""
    # Editors count lines, which is no row's number where captions have line ends.
    where = f"{Path(given.output_dir, QUARANTINE)} (rows from 0, without a CSV's head)"
    named = f"{where} names all that is " if counts else ""
    say(
        f"{given.output_dir}: {made.pairs} pairs, {made.size / 1e6:.1f} MB; "
        f"{named}left out: {', '.join(counts) or 'none'}{hint}"
    )
    if made.damaged:
        raise ConfigError(
            f"{given.output_dir}: all is there but {unreadable(made.damaged)}; mend and convert "
            "all again into another folder, or go on without"
        )


def main() -> None:
    """Do it, and sum up in one line."""
    given = flags()
    # Imported late: help and bad words need no Arrow.
    from engine.data.pack import index_shards, verify_shards

    def say(line: str) -> None:
        print(line, flush=True)

    if given.action == "convert":
        convert_pairs(given, say)
        return
    whole = "whole (bytes as indexed; pictures are not decoded)"
    kinds = {"index": (index_shards, "indexed"), "verify": (verify_shards, whole)}
    work, verdict = kinds[given.action]
    done = work(given.shards, say)
    size, more = f"{done.size / 1e6:.1f} MB", f", never read: {done.unread}" if done.unread else ""
    say(f"shards: {done.shards}, samples: {done.samples}{more}, {size}; all {verdict}")


if __name__ == "__main__":
    run_main(main)
