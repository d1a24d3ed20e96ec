"""Pictures taken out again, by uid or URL: out of shards, tables, and what is in work.

What is noted of them is the uid and where it was, so that they do not come back, and hashes of the
shard before and after, so that it is known again: no URL, no caption, no bytes.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

from engine.capfilt.purge import CleanedSet
from engine.collect.web.folder import SETTINGS, SUMMARY, CollectionFolder
from engine.config import ConfigError
from engine.data.index import ShardError
from engine.data.kept_texts import SHARDS, is_cleaned
from engine.data.pack import shards_of
from engine.data.picture_files import first_of
from engine.data.purge import PURGED, URL, Found, Out, noted, purge_beside, purge_shard
from engine.durable import write_whole

COLLECTION, CLEANED, LOOSE = "collection", "cleaned", "loose"
# What a table keeps of a row: its number, its uid and that nothing is there.
GONE: dict[str, Any] = {"url": None, "key": None, "kept": False, "reason": "purged", "look": None}


def purge(uids_file: Path, places: Sequence[str], progress: Callable[[str], None] = print) -> int:
    """Take pictures out of shards; done twice it changes nothing.

    Args:
        uids_file: a uid or a URL a line.
        places: folders of collections, finished or not, and of what captioning and filtering made;
            shards, folders of them, globs, ranges, with the tables that img2dataset writes beside.
        progress: takes the line at the end.

    Returns:
        How many were in a shard.

    Raises:
        ConfigError: nothing there, a set that is being made, or nothing that the file names.
        ShardError: shards that are damaged; all others are done.
    """
    names = _read_uids(uids_file)
    by_kind = _by_kind(places)
    collections = [CollectionFolder(root) for root in by_kind[COLLECTION]]
    cleaned = [CleanedSet(root) for root in by_kind[CLEANED]]
    loose = [Path(one) for one in by_kind[LOOSE]]
    shards = [*loose, *(shard for one in collections for shard in sorted(one.root.glob("*.tar")))]
    done, problems, damaged = 0, [], []
    met: set[str] = set()

    def note(shard: Path, found: Out) -> None:
        met.update(found.names)
        _note_found(shard, found)

    with ExitStack() as locks:
        for one in collections:
            locks.enter_context(one.locked())
        listed = [_listed(one, names) for one in collections]
        met.update(*(there.values() for there in listed))
        uids = names.union(*listed)
        for one in collections:
            _note(one.root, ({"uid": uid} for uid in sorted(uids) if not uid.startswith(URL)))
        # Cleaned sets first: what they were made from tells the uids of URLs.
        work: list[tuple[Path, Callable[[Found], int]]] = [
            (one.root / name, partial(one.purge, name, uids, loose))
            for one in cleaned
            for name in one.names
        ]
        work += [(shard, partial(purge_shard, shard, uids)) for shard in shards]
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
            damaged += _forget(one, uids, met)
        for one in cleaned:
            one.add_up()
            met |= one.met
    if problems or damaged:
        some = f"{len(problems)} of {len(work)} shards"
        some += f" and {len(damaged)} tables" if damaged else ""
        raise ShardError(f"{some} are left as they were: {'; '.join(problems + damaged)}")
    places_of_notes = {shard.parent for shard in shards} | {one.root for one in cleaned}
    met |= {one["uid"] for folder in places_of_notes for one in noted(folder) if "shard" in one}
    unmet = sorted(names - met)
    # What an unfinished collection has not fetched yet it never will.
    ended = all((one.root / SUMMARY).is_file() for one in collections)
    if ended and len(unmet) == len(names):
        raise ConfigError(
            f"--uids {uids_file}: none of its {len(names)} uids and URLs is in these shards or "
            f"their tables: {first_of(unmet)}"
        )
    line = f"pictures taken out: {done}; uids: {len(names)}, shards: {len(work)}"
    if unmet:
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


def _listed(folder: CollectionFolder, names: frozenset[str]) -> dict[str, str]:
    """URLs among some names that tables hold, by the uids of their rows.

    Raises:
        ConfigError: of a collection that is not finished not all are known.
    """
    urls = {name for name in names if name.startswith(URL)}
    found: dict[str, str] = {}
    if urls and not (folder.root / SUMMARY).is_file():
        raise ConfigError(
            f"{folder.root}: is not finished, and what has a URL would be fetched later: finish it "
            "first (collect.py web), or name uids"
        )
    for path in sorted(folder.tables.glob("*.parquet")) if urls else ():
        # One that is damaged is named later.
        with suppress(ConfigError):
            rows = folder.read_table(int(path.stem), ["uid", "url"]).to_pylist()
            found |= {row["uid"]: row["url"] for row in rows if row["url"] in urls}
    return found


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


def _forget(folder: CollectionFolder, uids: frozenset[str], met: set[str]) -> list[str]:
    """Take the URLs and looks of pictures out of the tables, and what is in work that may hold
    them: it is fetched again. What is wrong with tables, which stay as they are; `met` takes what
    was there."""
    problems: list[str] = []
    # Of a process that was killed in the middle of a file.
    for path in (*folder.work.glob("*.partial"), *folder.root.glob(".*.partial")):
        path.unlink()
    here_at_all: set[str] = set()
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
        here_at_all |= here
    for path in folder.work.glob("*.journal"):
        if uids - here_at_all or folder.finished(int(path.stem)):
            path.unlink()
    met |= here_at_all
    return problems
