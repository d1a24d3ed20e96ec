"""What goes wrong with a place where a run is about to begin."""

import fcntl
import json
import tarfile
from dataclasses import replace
from pathlib import Path

from blip_model import Blip
from blip_model.config import preset
from engine.capfilt.config import CapFiltConfig
from engine.capfilt.identity import of_settings
from engine.data.index import build_index, store_index
from engine.data.shard_writer import add_members
from engine.data.shards import Shards
from tests.check_runs import flip, rewrite, save_run, write_list
from tests.shards import caption, picture
from tests.tiny import write_model

SHARD = "data/pairs_00001.tar"


def cut(folder: Path) -> None:
    """The end of a shard is missing."""
    content = (folder / SHARD).read_bytes()
    (folder / SHARD).write_bytes(content[:-2048])


def damage_bytes(folder: Path) -> None:
    """A bit of a picture is another one; the size is not."""
    place = (folder / SHARD).read_bytes().index(b"\x89PNG")
    flip(folder / SHARD, place + 100)


def hold(folder: Path) -> object:
    """Another process writes into the run folder."""
    (folder / "run").mkdir()
    lock = (folder / "run" / ".lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def a_captioner(folder: Path) -> None:
    """A run that learned captions behind another prompt."""
    save_run(folder, "captioner", 1, task="caption", evaluate={"prompt": "a photo of "})


def copy_pairs(folder: Path) -> None:
    """A shard of the training pairs among the held-out ones."""
    for name in ("pairs_00000.tar", "pairs_00000.tar.index"):
        content = (folder / "data" / name).read_bytes()
        (folder / "held_out" / name.replace("pairs", "more")).write_bytes(content)


def bad_list(folder: Path) -> None:
    write_list(folder, column="words")


def list_without_pictures(folder: Path) -> None:
    write_list(folder)
    for path in (folder / "pictures").iterdir():
        path.unlink()


def strange_members(folder: Path) -> None:
    """Pictures that are called .picture, with captions."""
    rename_members(folder, "png", "picture")


def rename_members(folder: Path, old: str, new: str) -> None:
    """Other endings in the shards of `data`."""
    for path in (folder / "data").iterdir():
        if path.suffix == ".tar":
            with tarfile.open(path) as tar:
                members = [(member.name, tar.extractfile(member).read()) for member in tar]
            with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
                for name, content in members:
                    key, _, ending = name.partition(".")
                    add_members(tar, key, [(new if ending == old else ending, content)])
            store_index(build_index(path))


def add_stranger(folder: Path) -> None:
    """A sample whose name climbs out, behind the others of a shard."""
    with tarfile.open(folder / SHARD, "a", format=tarfile.USTAR_FORMAT) as tar:
        add_members(tar, "../../up", [("png", picture(0)), ("txt", b"up")])
    store_index(build_index(folder / SHARD))


def without_captions(folder: Path) -> Path:
    """Pictures most of which have none; cleaning gives them one."""
    rewrite(folder, lambda n: " ...!" if n % 4 else caption(n), picture)
    return folder


def same_names(folder: Path) -> None:
    rewrite(folder, caption, picture, lambda n: f"t{n % 31}")


def same_pairs(folder: Path) -> None:
    rewrite(folder, lambda n: caption(n % 16), lambda n: picture(n % 16))


def settings_only(folder: Path) -> None:
    """A run that has saved nothing but its settings."""
    config = save_run(folder, "run", 1)
    for path in (folder / "run" / "checkpoints").rglob("*"):
        if path.is_file():
            path.unlink()
    (folder / "run" / "checkpoints" / "step_00000001").rmdir()
    replace(config, seed=5).save(folder / "run" / "config.yaml")


def run_with(step: int, **changes: object):
    return lambda folder: save_run(folder, "run", step, **changes)


def a_scorer(folder: Path) -> None:
    """Weights without a decoder."""
    scorer = Blip(preset("tiny"), text_decoder=False)
    write_model(folder / "scorer", scorer)


def cleaned_with_seed_5(folder: Path) -> None:
    """What a captioning-and-filtering run of another seed leaves first."""
    (folder / "clean").mkdir()
    identity = of_settings(CapFiltConfig(seed=5)) | {"weights": {"captioner": "a", "filter": "b"}}
    (folder / "clean" / "run.json").write_text(json.dumps(identity))


def last_is_rotten(folder: Path) -> None:
    """Two checkpoints, the newer one damaged; both made on these pairs."""
    marked = Shards(sorted((folder / "data").glob("*.tar"))).fingerprint
    for step in (1, 2):
        save_run(folder, "run", step, marked=marked)
    place = folder / "run" / "checkpoints" / "step_00000002" / "state.json"
    flip(place, 10)


def rotten(folder: Path) -> None:
    place = folder / "tiny" / "model.safetensors"
    flip(place, place.stat().st_size - 10)
