"""What a captioning-and-filtering run leaves, written without models; and a page's data."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from engine.capfilt.config import CapFiltConfig, PairsSection, RuleSection
from engine.capfilt.table import Scored, judge_all, to_bytes
from engine.config import to_dict
from engine.data.shard_writer import ShardWriter
from tests.report_run import Elements


def write_capfilt(
    root: Path,
    shards: dict[str, Iterable[Scored]],
    rule: RuleSection | None = None,
    train: str | list[str] = "x",
) -> Path:
    """An output folder whose tables hold these pictures, judged by the rule.

    Args:
        root: of the output.
        shards: scored pictures by the shard's name.
        rule: of the run.
        train: what `data.train` names.
    """
    rule = rule or RuleSection()
    for part in ("table", "ledger", "shards", "quarantine"):
        (root / part).mkdir(parents=True, exist_ok=True)
    for name, pictures in shards.items():
        (root / "table" / f"{name}.parquet").write_bytes(to_bytes(judge_all(pictures, rule)))
    config = to_dict(CapFiltConfig(output_dir=str(root), data=PairsSection(train=train), rule=rule))
    (root / "config.yaml").write_text(yaml.safe_dump(config))
    (root / "run.json").write_text(json.dumps({"format": 1, "rule": config["rule"]}))
    return root


def write_pictures(folder: Path, name: str, pictures: Iterable[tuple[str, bytes]]) -> str:
    """An input shard `NAME_00000` of these keys and pictures; what `data.train` names."""
    with ShardWriter(folder, name, 1 << 30) as writer:
        for key, image in pictures:
            writer.add(key, image, "png", key, {"uid": key})
    return str(folder)


def data_of(page: str) -> dict[str, Any]:
    """What the page's script works with."""
    found = page.partition('<script type="application/json" id="capfilt-data">')[2]
    return json.loads(found.partition("</script>")[0])


def words_of(page: str) -> str:
    """The page's text without its data, script and style, in single spaces."""
    body = page.partition("<body>")[2].partition('<script type="application/json"')[0]
    return " ".join(Elements(body).text.split())
