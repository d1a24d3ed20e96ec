"""What became of all rows, counted from the tables."""

import json
from collections import Counter
from pathlib import Path

from engine.collect.web.folder import SUMMARY, CollectionFolder
from engine.durable import write_whole

KEPT = "kept"


def summarise(folder: CollectionFolder, rows: int, shards: int) -> None:
    """Count what the tables of a finished collection say, store and print it.

    Args:
        folder: of the collection.
        rows: of its lists.
        shards: of it, those without a pair among them.

    Raises:
        ConfigError: a damaged table.
    """
    counts: Counter[str] = Counter()
    size = 0
    for number in range(shards):
        table = folder.read_table(number, ["kept", "reason", "bytes"])
        reasons = table["reason"].to_pylist()
        counts.update(reason or KEPT for reason in reasons)
        size += sum(b for b, r in zip(table["bytes"].to_pylist(), reasons, strict=True) if not r)
    known = sum(counts.values())
    facts = {
        "rows": rows,
        "kept": counts[KEPT],
        "kept_share": round(counts[KEPT] / rows, 6),
        "bytes": size,
        "reasons": {k: n for k, n in counts.most_common() if k != KEPT},
        "unaccounted": rows - known,
    }
    write_whole(folder.root / SUMMARY, (json.dumps(facts, indent=1) + "\n").encode())
    print(said(folder.root, facts), flush=True)


def said(root: Path, facts: dict) -> str:
    """The summary for people."""
    rows = facts["rows"]
    lines = [
        f"{root}: {facts['kept']} of {rows} pairs kept ({100 * facts['kept_share']:.1f} %), "
        f"{facts['bytes'] / 1e6:.1f} MB"
    ]
    lines += [f"  {n:>9} {100 * n / rows:5.1f} % {why}" for why, n in facts["reasons"].items()]
    return "\n".join(lines)
