"""Pictures taken out again, by uid: out of shards, tables, and what is in work.

What is noted of them is the uid and where it was, so that they do not come back, and hashes of the
shard before and after, so that it is known again: no URL, no caption, no bytes.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from engine.capfilt.purge import CleanedSet
from engine.collect.web.folder import SETTINGS, CollectionFolder
from engine.config import ConfigError
from engine.data.index import ShardError
from engine.data.kept_texts import SHARDS, is_cleaned
from engine.data.pack import shards_of
from engine.data.picture_files import first_of
from engine.data.purge import PURGED, Found, Out, purge_beside, purge_shard
from engine.durable import write_whole

COLLECTION, CLEANED, LOOSE = "collection", "cleaned", "loose"
# What a table keeps of a row: its number, its uid and that nothing is there.
GONE: dict[str, Any] = {"url": None, "key": None, "kept": False, "reason": "purged", "look": None}


def purge(uids_file: Path, places: Sequence[str], progress: Callable[[str], None] = print) -> int:
    """Take pictures out of shards; done twice it changes nothing.

    Args:
        uids_file: a uid a line.
        places: folders of collections, finished or not, and of what captioning and filtering made;
            shards, folders of them, globs, ranges, with the tables that img2dataset writes beside.
        progress: takes the line at the end.

    Returns:
        How many were in a shard.

    Raises:
        ConfigError: nothing there, or a set that is being made.
        ShardError: shards that are damaged; all others are done.
    """
    uids = _read_uids(uids_file)
    by_kind = _by_kind(places)
    collections = [CollectionFolder(root) for root in by_kind[COLLECTION]]
    cleaned = [CleanedSet(root) for root in by_kind[CLEANED]]
    shards = [Path(one) for one in by_kind[LOOSE]]
    loose = list(shards)
    shards += [shard for one in collections for shard in sorted(one.root.glob("*.tar"))]
    work: list[tuple[Path, Callable[[Found], int]]] = [
        (shard, partial(purge_shard, shard, uids)) for shard in shards
    ]
    work += [
        (one.root / name, partial(one.purge, name, uids)) for one in cleaned for name in one.names
    ]
    done, problems, damaged = 0, [], []
    met: set[str] = set()

    def note(shard: Path, found: Out) -> None:
        met.update(uid for _, uid in found.pairs)
        _note_found(shard, found)

    with ExitStack() as locks:
        for one in collections:
            locks.enter_context(one.locked())
            _note(one.root, ({"uid": uid} for uid in sorted(uids)))
        for shard, take_out in work:
            try:
                done += take_out(partial(note, shard))
            except ShardError as error:
                problems.append(str(error))
            except OSError as error:
                problems.append(f"{shard}: {error.strerror}")
        for shard in loose:
            try:
                met |= purge_beside(shard, uids)
            except ConfigError as error:
                damaged.append(str(error))
            except OSError as error:
                damaged.append(f"{shard.with_suffix('.parquet')}: {error.strerror}")
        for one in collections:
            damaged += _forget(one, uids)
        for one in cleaned:
            one.add_up()
    if problems or damaged:
        some = f"{len(problems)} of {len(work)} shards"
        some += f" and {len(damaged)} tables" if damaged else ""
        raise ShardError(f"{some} are left as they were: {'; '.join(problems + damaged)}")
    line = f"pictures taken out: {done}; uids: {len(uids)}, shards: {len(work)}"
    if unmet := sorted(uids - met):
        line += f"; in none of the shards: {first_of(unmet)}"
    progress(line)
    return done


def _by_kind(places: Sequence[str]) -> dict[str, list[Path]]:
    """Folders of collections, of cleaned sets, and shards of neither.

    Raises:
        ConfigError: nothing there, or shards of a set that is to be named as a whole.
    """
    kinds: dict[str, list[Path]] = {COLLECTION: [], CLEANED: [], LOOSE: []}
    others = []
    for place in places:
        if (Path(place) / SETTINGS).is_file():
            kinds[COLLECTION].append(Path(place).resolve())
        elif is_cleaned(Path(place)):
            kinds[CLEANED].append(Path(place).resolve())
        else:
            others.append(place)
    for shard in shards_of(others) if others else []:
        if (shard.parent / SETTINGS).is_file():
            raise ConfigError(f"{shard} is part of a collection: name its folder, {shard.parent}")
        whole = shard.absolute().parent.parent
        if is_cleaned(whole) and shard.absolute().parent.name == SHARDS:
            raise ConfigError(f"{shard} is part of a cleaned set: name its folder, {whole}")
        kinds[LOOSE].append(shard)
    return {kind: list(dict.fromkeys(found)) for kind, found in kinds.items()}


def _read_uids(path: Path) -> frozenset[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeError) as error:
        problem = getattr(error, "strerror", None) or "no UTF-8 text"
        raise ConfigError(f"--uids {path}: {problem}") from None
    uids = frozenset(line.strip() for line in lines if line.strip())
    if not uids:
        raise ConfigError(f"--uids {path}: names no uid")
    return uids


def _note_found(shard: Path, found: Out) -> None:
    same = {"before": found.before, "after": found.after}
    where = ({"uid": uid, "shard": shard.name, "key": key} | same for key, uid in found.pairs)
    _note(shard.parent, where)


def _note(folder: Path, facts: Iterable[dict[str, str]]) -> None:
    """Add what is not noted yet."""
    path = folder / PURGED
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    known = set(before.splitlines())
    lines = [line for one in facts if (line := json.dumps(one)) not in known]
    if lines:
        write_whole(path, (before + "".join(f"{line}\n" for line in lines)).encode())


def _forget(folder: CollectionFolder, uids: frozenset[str]) -> list[str]:
    """Take the URLs and looks of pictures out of the tables, and what is in work that may hold
    them: it is fetched again. What is wrong with tables, which stay as they are."""
    problems: list[str] = []
    # Of a process that was killed in the middle of a file.
    for path in (*folder.work.glob("*.partial"), *folder.root.glob(".*.partial")):
        path.unlink()
    met: set[str] = set()
    for path in sorted(folder.tables.glob("*.parquet")):
        try:
            rows = folder.read_table(int(path.stem)).to_pylist()
        except ConfigError as error:
            problems.append(str(error))
            continue
        here = uids & {row["uid"] for row in rows}
        if any(row["reason"] != GONE["reason"] for row in rows if row["uid"] in here):
            rows = [row | GONE if row["uid"] in here else row for row in rows]
            folder.write_table(int(path.stem), rows)
        met |= here
    for path in folder.work.glob("*.journal"):
        if uids - met or folder.finished(int(path.stem)):
            path.unlink()
    return problems
