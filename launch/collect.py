"""Make a pair set as indexed shards: `python launch/collect.py [web|purge] --output_dir FOLDER`."""

import sys
from pathlib import Path

# Run as a file from anywhere: the floors lie beside this folder, and its own names shadow nothing.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from engine.collect.pair_set import CollectConfig, collect
from launch.cli import open_words, parse, run_main

EXAMPLES = """
  python launch/collect.py --output_dir runs/data/openmoji
  python launch/collect.py --output_dir runs/data/openmoji224 --size 224 --held_out 400
  python launch/collect.py --output_dir runs/data/noisy --noise 0.3 --clean_fraction 0.1
  python launch/collect.py --output_dir runs/data/openmoji --tasks vqa
  python launch/collect.py --source openclipart --held_out 100
  python launch/collect.py --source tuxpaint --held_out 200
"""


WEB_EXAMPLES = """
  python launch/collect.py web --pairs pairs.parquet --output_dir runs/data/web
  python launch/collect.py web --pairs 'lists/{000..127}.parquet' --output_dir runs/data/web \\
    --workers 128 --screen.languages [en] --screen.min_side 200 --screen.max_aspect 3
  python launch/collect.py web --pairs pairs.csv --output_dir runs/data/web \\
    --screen.max_repeats 10 --screen.eval coco/karpathy_test.json
"""
PURGE_EXAMPLES = """
  python launch/collect.py purge --uids takedown.txt --data runs/data/web runs/cleaned
  python launch/collect.py purge --uids takedown.txt --data 'shards/{00000..01399}.tar'
"""


def main() -> int:
    """Read the flags and build the set."""
    verb = sys.argv[1:2]
    if verb == ["web"]:
        return _web(sys.argv[2:])
    if verb == ["purge"]:
        return _purge(sys.argv[2:])
    config = parse(
        CollectConfig,
        description="Make a set of picture-caption pairs from pictures that an installed package "
        "holds: OpenMoji drawings and their names, Open Clip Art, or stamps of Tux Paint. With "
        "`web` as the first word, from lists of URLs and alt texts; with `purge`, take pictures "
        "out of shards: each has its own --help.",
        examples=EXAMPLES,
    )
    collect(config, lambda line: print(line, flush=True))
    return 0


def _web(words: list[str]) -> int:
    """Fetch pictures of lists; 0 when all is finished, 75 when a signal stopped it before."""
    from engine.collect.web.config import WebConfig
    from engine.training.signals import StopRequest

    stop = StopRequest()
    config = parse(
        WebConfig,
        words,
        description="Fetch the pictures of lists of URLs and alt texts, within bounds and with "
        "manners, and write those that pass as indexed shards; a table says of each row what "
        "became of it. Start it again to go on.",
        examples=WEB_EXAMPLES,
        verb="web",
    )
    from engine.collect.web.run import collect_web

    return collect_web(config, stop)


def _purge(words: list[str]) -> int:
    """Take pictures out of shards."""
    does = "Take pictures out of finished shards, by their uids or URLs."
    parser = open_words(does, PURGE_EXAMPLES, "purge")
    parser.add_argument(
        "--uids",
        required=True,
        metavar="FILE",
        help="a text file with a uid a line, or a URL (http:// or https://), as the samples' JSON "
        "has it; pictures that a cleaning dropped are found by URL in the shards it was made from: "
        "name these too. The code is 2 where none of them is found",
    )
    parser.add_argument(
        "--data",
        required=True,
        nargs="+",
        metavar="SHARDS",
        help="folders of collections and of what capfilt.py made (tables, too), .tar files, "
        "folders of them, globs, or ranges; img2dataset's .parquet beside a shard is theirs too",
    )
    given = parser.parse_args(words)
    from engine.collect.web.purge import purge

    purge(Path(given.uids), given.data, lambda line: print(line, flush=True))
    return 0


if __name__ == "__main__":
    run_main(main)
