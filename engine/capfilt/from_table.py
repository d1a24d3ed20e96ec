"""From a shard to the scored candidate texts of its pictures: by the table of an earlier run."""

import json
from pathlib import Path
from typing import Any

import xxhash

from engine.capfilt.candidates import ShardTexts, Tick
from engine.capfilt.config import CapFiltConfig
from engine.capfilt.folder import OutputFolder
from engine.capfilt.identity import (
    FORMAT,
    hash_identity,
    named_rule,
    of_settings,
    read_identity,
)
from engine.capfilt.ledger import QUARANTINED, Ledger
from engine.capfilt.pictures import Bad
from engine.capfilt.table import from_bytes
from engine.config import ConfigError
from engine.data.index import ShardError, ShardIndex
from engine.data.purge import PURGED, purged_since
from engine.data.shards import Shards
from engine.differences import differences, flat


class EarlierRun:
    """Scores that were made before.

    Args:
        root: output_dir of the earlier run.

    Raises:
        ConfigError: no run there.
    """

    def __init__(self, root: Path) -> None:
        identity = read_identity(root, to_continue=False)
        if identity is None:
            raise ConfigError(f"from_table {root}: holds no captioning-and-filtering run")
        self.folder, self._identity = OutputFolder(root), identity
        self.ledger = Ledger(self.folder, hash_identity(identity))

    def identity(self, config: CapFiltConfig) -> dict[str, Any]:
        """That of a run with these scores and this rule: the same as if they were made anew.

        Raises:
            ConfigError: captions or scores are asked for that the earlier run has not made.
        """
        theirs = flat(self._identity)
        wanted, unsaid = (_asked(one) for one in (config, CapFiltConfig()))
        other = [k for k in wanted if wanted[k] not in (unsaid.get(k), theirs.get(k))]
        if other:
            apart = differences(*({key: of.get(key) for key in other} for of in (theirs, wanted)))
            raise ConfigError(
                f"from_table {self.folder.root}: takes its captions and scores as they are, only "
                f"the rule may differ ({', '.join(apart)}): leave these settings out, or "
                "give captioner and filter instead of from_table"
            )
        return {**self._identity, "format": FORMAT, "rule": named_rule(config.rule)}

    def require(self, names: list[str]) -> None:
        """Refuse shards that the earlier run has not finished.

        Raises:
            ConfigError: names the first of them.
        """
        missing = [name for name in names if not self.ledger.has(name)]
        if missing:
            raise ConfigError(
                f"from_table {self.folder.root}: {len(missing)} of {len(names)} shards are not "
                f"finished there, the first is {missing[0]}"
            )

    def purged(self, name: str, index: ShardIndex) -> set[str]:
        """Keys of what was purged from a shard since it was captioned and scored.

        Args:
            name: of the shard.
            index: of the shard as it is now.

        Raises:
            ShardError: the earlier run could not read it.
            ConfigError: another shard.
        """
        entry = self.ledger.read(name)
        if entry.status == QUARANTINED:
            raise ShardError(entry.reason)
        keys = purged_since(index.path, index.fingerprint, entry.input["fingerprint"])
        if keys is None:
            raise ConfigError(
                f"{self._table(name)} was made from another shard than {index.path}, which no "
                f"purge that is noted in {PURGED} beside it made of that one: give captioner and "
                "filter to make it anew"
            )
        return keys

    def __call__(self, name: str, shards: Shards, tick: Tick) -> ShardTexts:
        """The texts of a shard.

        Raises:
            ShardError: the earlier run could not read it.
            ConfigError: a table that is damaged, or was made from other bytes.
        """
        out, path = self.purged(name, shards.index(0)), self._table(name)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from None
        if xxhash.xxh3_128_hexdigest(content) != self.ledger.read(name).table["xxh3_128"]:
            raise ConfigError(f"{path}: is damaged, its hash differs from the ledger's")
        # Its table may not have been purged.
        pictures = [one for one in from_bytes(content, str(path)) if one.key not in out]
        bad = [one for one in self._bad(name) if one.key not in out]
        # What was only read says nothing of the speed until the shard is written.
        tick(0)
        return ShardTexts(pictures, bad)

    def _table(self, name: str) -> Path:
        return self.folder.table / f"{name}.parquet"

    def _bad(self, name: str) -> list[Bad]:
        path = self.folder.quarantine / f"{name}.jsonl"
        if not path.exists():
            return []
        try:
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            return [Bad(row["key"], row["uid"], row["reason"]) for row in rows]
        except (OSError, ValueError, KeyError, TypeError):
            raise ConfigError(f"{path}: damaged") from None


def _asked(config: CapFiltConfig) -> dict[str, Any]:
    """What settings ask of captions and scores, by dotted key."""
    settings = of_settings(config)
    return flat({key: settings[key] for key in settings.keys() - {"format", "rule"}})
