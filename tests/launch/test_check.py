"""`check.py`: every planted fault is found with what to do, all at once; a good run has none."""

import os
import shutil
import socket
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from engine.capfilt.config import CapFiltConfig
from engine.capfilt.folder import room_for
from engine.check import cleaning, shards
from engine.check.folder import unwritable
from engine.check.host import Host
from engine.check.pairs import SAMPLES
from engine.check.run import check_cleaning
from engine.check.shards import OPENED, look_at_shards
from engine.data.index import read_index
from engine.data.shards import Shards
from engine.data.source import RawSample
from engine.doctor.isolated import isolated
from engine.findings import Finding
from engine.machine import cores, memory_bytes
from launch import check
from launch.check import CheckCapFiltConfig, only
from launch.cli import parse
from tests.check_runs import HOST, config_of, look, make_good, run, write_pairs
from tests.commands import call, contents
from tests.faults import CLEANING, FAULTS, Fault, described
from tests.machines import few_files
from tests.plants import cut, hold, strange_members, without_captions
from tests.ranks import free_port
from tests.videos import write_video_questions, write_videos


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place where nothing is wrong."""
    return make_good(tmp_path_factory.mktemp("good"))


@pytest.fixture
def place(good: Path, tmp_path: Path) -> Path:
    """A copy of it to plant faults into."""
    return Path(shutil.copytree(good, tmp_path / "copy"))


def clean(folder: Path, *words: str) -> list[Finding]:
    """What a check of captioning and filtering says."""
    places = [f"--{name}={folder / 'tiny'}" for name in ("captioner", "filter")]
    places += [f"--data.train={folder / 'data'}", f"--output_dir={folder / 'clean'}"]
    given = parse(CheckCapFiltConfig, [*places, *words], description="", examples="")
    return check_cleaning(only(CapFiltConfig, given), HOST)


@pytest.mark.parametrize("words", ["", "--task caption", "--task retrieval", "--ranks 2"])
def test_nothing_is_wrong_with_a_good_run(good: Path, words: str) -> None:
    before = contents(good)
    weights = ["--model.checkpoint", str(good / "tiny")] if "task" in words else []
    assert look(good, *words.split(), *weights) == []
    assert contents(good) == before


def test_nothing_is_wrong_with_a_good_cleaning(good: Path, place: Path) -> None:
    before = contents(good)
    assert clean(good) == []
    assert contents(good) == before
    assert clean(without_captions(place)) == []


@pytest.mark.parametrize("fault", FAULTS, ids=described)
def test_a_planted_fault_is_found_and_nothing_else(fault: Fault, place: Path) -> None:
    kept = fault.plant(place)
    words = fault.words.replace("FOLDER", str(place)).split()
    only_finding(fault, look(place, *words, host=fault.host))
    del kept


@pytest.mark.parametrize("fault", CLEANING, ids=described)
def test_a_fault_of_a_cleaning_is_found_and_nothing_else(fault: Fault, place: Path) -> None:
    fault.plant(place)
    words = fault.words.replace("FOLDER", str(place)).split()
    only_finding(fault, clean(place, *words))


def only_finding(fault: Fault, found: list[Finding]) -> None:
    assert [(one.severity, one.name) for one in found] == [(fault.severity, fault.name)], found
    assert fault.advice in found[0].line
    assert "\n" not in str(found[0])


def test_members_of_other_names_are_listed(place: Path) -> None:
    strange_members(place)
    found = [one for one in look(place) if one.name == "member_names"]
    assert len(found) == 1
    assert "ends in jpg, png or webp; found: picture, txt, json" in found[0].line


def test_what_meteor_and_spice_need_is_said(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(place))
    found = look(place, "--evaluate.meteor", "true", "--evaluate.spice", str(place))
    assert [(one.severity, one.name) for one in found] == [("error", "meteor"), ("error", "spice")]
    assert "evaluate.meteor needs Java: install it" in found[0].line
    assert f"evaluate.spice {place}: no spice-1.0.jar in it" in found[1].line


def test_a_folder_that_may_not_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o555)

    def as_nobody() -> list[str]:
        if os.geteuid() == 0:
            os.setuid(65534)
        return [finding.name for finding in unwritable(str(tmp_path / "closed" / "run"))]

    assert isolated(as_nobody, 60).facts == ["output_unwritable"]


def test_many_kinds_of_faults_are_planted() -> None:
    assert len({fault.name for fault in FAULTS}) >= 45


def test_all_faults_are_found_at_once(place: Path) -> None:
    cut(place)
    lock = hold(place)
    words = ["--train.learnin_rate", "1", "--train.epochs=many", "--model.image_size", "30"]
    words += ["--train.warmup_steps", "50", "--model.queue_size", "9", "--ranks", "3"]
    words += ["--model.checkpoint", str(place / "nowhere"), "--checkpoint.evry=3"]
    code, said = run(place, *words)
    lines = {name: [one["line"] for one in said["findings"] if one["name"] == name] for name in (
        "config", "shard_damaged", "output_in_use", "warmup", "queue_not_divisible", "batch",
        "checkpoint_missing",
    )}  # fmt: skip
    assert code == 2
    assert {name: len(found) for name, found in lines.items()} == {
        **dict.fromkeys(lines, 1),
        "config": 4,
    }
    config = "\n".join(lines["config"])
    for part in (
        "unknown key 'train.learnin_rate': did you mean 'train.learning_rate'?",
        "train.epochs: expected int, got 'many'",
        "image_size 30 is not a multiple of patch_size 8",
        "unknown key 'checkpoint.evry': did you mean 'checkpoint.every'?",
    ):
        assert part in config
    assert lock


def test_nothing_is_wrong_with_a_run_of_no_steps(place: Path) -> None:
    assert look(place, "--train.max_steps", "0") == []


def test_what_is_said_of_warming_up_helps(place: Path) -> None:
    finding, *_ = look(place, "--train.max_steps", "1", "--train.warmup_steps", "1")
    assert finding.line.endswith("set it to 0")
    found = look(place, "--train.max_steps", "1", "--train.warmup_steps", "0")
    assert "warmup" not in {one.name for one in found}


def test_lines_for_people_and_the_exit_code(place: Path) -> None:
    words = ["--config", place / "run.yaml", f"--data.train={place / 'data'}"]
    words += [f"--output_dir={place / 'new'}", "--data.workers=0"]
    done = call(check.main, *words)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("nothing wrong was found (")
    done = call(check.main, *words, "--train.warmup_steps", "20", "--train.epochs", "3")
    first, second, last = done.out.splitlines()
    assert (done.code, done.err) == (2, "")
    assert first.startswith("error: train.warmup_steps 20 is not less than the run's 20 steps")
    assert second.startswith("warning: train.epochs 3 is ignored, because ")
    assert last.startswith("1 error, 1 warning (")


def test_a_recipe_of_fine_tuning_says_its_task(place: Path) -> None:
    path = place / "run.yaml"
    path.write_text(path.read_text() + "task: caption\n")
    assert config_of(place).task == "caption"
    code, said = run(place)
    assert (code, [one["name"] for one in said["findings"]]) == (2, ["objective"])


def test_reads_are_bounded_however_large_the_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time is counted in what is read: machines differ."""
    counts = {"samples": 0, "indexes": 0, "footers": 0}
    plain_read, plain_footer = Shards.read, shards._stated

    def read(self: Shards, number: int) -> RawSample:
        counts["samples"] += 1
        return plain_read(self, number)

    def index(path: Path) -> object:
        counts["indexes"] += 1
        return read_index(path)

    def footer(path: Path) -> int:
        counts["footers"] += 1
        return plain_footer(path)

    monkeypatch.setattr(Shards, "read", read)
    monkeypatch.setattr(shards, "read_index", index)
    monkeypatch.setattr(shards, "_stated", footer)
    folder = make_good(tmp_path)
    write_pairs(folder / "data", 400, shards=40)
    found = look(folder, "--data.eval=null", "--model.alpha_ramp_epochs=0")
    assert found == []
    assert counts == {"samples": SAMPLES, "indexes": OPENED, "footers": 40 - OPENED}


def test_shards_beyond_the_footers_are_counted_by_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "FOOTERS", 4)
    folder = write_pairs(tmp_path / "data", 60, shards=30)
    looked = look_at_shards("data.train", sorted(folder.glob("*.tar")))
    assert (len(looked.shards), looked.samples, looked.whole) == (2 * OPENED, 60, False)


def test_a_damaged_shard_beyond_the_opened_ones_is_found(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "data", 60, shards=30)
    paths = sorted(folder.glob("*.tar"))
    opened = shards.spread(paths, OPENED)
    hidden = next(path for path in paths if path not in opened)
    hidden.write_bytes(hidden.read_bytes()[:-512])
    (finding,) = look_at_shards("data.train", paths).findings
    assert str(hidden) in finding.line


def test_many_damaged_shards_are_few_lines(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "data", 20, shards=10)
    for path in folder.glob("*.tar"):
        path.write_bytes(b"<html>")
    found = look_at_shards("data.train", sorted(folder.glob("*.tar"))).findings
    assert len(found) == shards.NAMED + 1
    assert "5 more shards" in found[-1].line


def test_the_limits_of_this_machine_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    # Nobody else takes it when nobody listens there any more.
    monkeypatch.setenv("MASTER_PORT", str(port := free_port()))
    with socket.create_server(("", port)), few_files() as few:
        host = Host.read()
    assert (host.open_files, host.port_free, host.deepspeed) == (few, False, True)
    assert 1 <= host.cores <= cores()
    assert 0 < host.memory <= memory_bytes()
    assert Host.read().port_free


def test_help_of_a_cleaning_shows_its_own_flags() -> None:
    done = call(check.main, "--task", "capfilt", "--help")
    assert (done.code, done.err) == (0, "")
    usage, _, examples = done.out.partition("examples:\n")
    assert "--rule.itm_threshold" in usage
    assert "--task capfilt" in examples


def test_a_disk_without_room_for_cleaned_shards(
    good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [room_for(path.stat().st_size) for path in (good / "data").glob("*.tar")]
    for free, severity in ((max(sizes) - 1, "error"), (sum(sizes) - 1, "warning")):
        usage = SimpleNamespace(free=free)
        monkeypatch.setattr(cleaning.shutil, "disk_usage", lambda _, usage=usage: usage)
        (finding,) = clean(good)
        assert (finding.name, finding.severity) == ("disk", severity)
    monkeypatch.setattr(cleaning.shutil, "disk_usage", lambda _: SimpleNamespace(free=sum(sizes)))
    assert clean(good) == []


def test_gpus_and_machines_beyond_this_one(good: Path) -> None:
    host = replace(HOST, gpus=1, gpu_memory=1 << 20)
    names = {finding.name for finding in look(good, "--ranks", "2", host=host)}
    assert names == {"memory", "ranks"}


def test_ranks_of_other_machines_do_not_count_here(good: Path) -> None:
    words = ["--train.negative_group_size", "2", "--model.queue_size", "16"]
    words += ["--train.global_batch_size", "16", "--model.alpha_ramp_epochs", "0"]
    few = replace(HOST, cores=4, shared_memory=1 << 18)
    assert look(good, *words, "--ranks", "8", host=few) == []
    found = look(good, *words, "--ranks", "4", host=few)
    assert {finding.name for finding in found} == {"workers", "shared_memory"}
    # 4 ranks x 2 workers x 4 batches x 4 pictures x 3 x 32 x 32 bytes.
    assert look(good, *words, "--ranks", "4", host=replace(HOST, shared_memory=393_216)) == []


@pytest.mark.parametrize("task", ["video_retrieval", "video_qa"])
def test_videos_are_looked_at_as_videos(good: Path, tmp_path: Path, task: str) -> None:
    write = {"video_retrieval": write_videos, "video_qa": write_video_questions}[task]
    data = str(write(tmp_path, 16))
    words = ["--task", task, "--data.train", data, "--data.eval", data, "--data.frames", "2"]
    words += ["--model.checkpoint", str(good / "tiny")]
    assert {one.name for one in look(good, *words)} <= {"eval_shared", "eval_is_train"}
    (tmp_path / "video3.mp4").write_bytes(b"no video")
    assert "wrong_format" in " ".join(one.line for one in look(good, *words))
