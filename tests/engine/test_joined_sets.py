"""Several sets as one: names, keys and numbers of one mean other pictures in the next."""

import json
import shutil
from pathlib import Path

from engine.data.evaluation_set import EvaluationSet
from engine.data.open_source import open_source
from tests.shards import caption, picture, write_shards


def listed(folder: Path, name: str, numbers: range, shift: int = 0) -> str:
    """Pictures called by number from 0 on, and a list of them."""
    folder.mkdir(exist_ok=True)
    rows = ["image,caption"]
    for number in numbers:
        (folder / f"{number}.png").write_bytes(picture(number + shift))
        rows.append(f"{number}.png,{name} {number}")
    path = folder / f"{name}.csv"
    path.write_text("\n".join(rows) + "\n")
    return str(path)


def evaluated(spec: list[str]) -> EvaluationSet:
    """Gone through as an evaluation does."""
    found = EvaluationSet(open_source(spec), 32, 30, 1_000_000)
    assert all(views.shape[1:] == (3, 32, 32) for views in found.views(4))
    return found


def test_lists_of_two_folders(tmp_path: Path) -> None:
    spec = [listed(tmp_path / n, n, range(3), s) for n, s in (("a", 0), ("b", 50))]
    found = evaluated(spec)
    assert found.captions == [f"{name} {number}" for name in "ab" for number in range(3)]
    assert found.caption_image == [0, 1, 2, 3, 4, 5]
    assert found.keys == ["0.png", "1.png", "2.png", "0.png+1", "1.png+1", "2.png+1"]


def test_lists_of_one_folder_name_the_same_pictures(tmp_path: Path) -> None:
    spec = [listed(tmp_path / "a", name, range(3)) for name in ("one", "two")]
    assert evaluated(spec).caption_image == [0, 1, 2, 0, 1, 2]


def test_lists_of_one_folder_that_number_their_pictures_alike(tmp_path: Path) -> None:
    spec = []
    for start in (0, 3):
        names = [f"{number}.png" for number in range(start, start + 3)]
        for number, name in enumerate(names, start):
            (tmp_path / name).write_bytes(picture(number))
        rows = [{"image": n, "image_id": at, "caption": n[0]} for at, n in enumerate(names)]
        (tmp_path / f"{start}.json").write_text(json.dumps(rows))
        spec.append(str(tmp_path / f"{start}.json"))
    found = evaluated(spec)
    assert found.caption_image == [0, 1, 2, 3, 4, 5]
    assert found.keys == ["0.png", "1.png", "2.png", "3.png+1", "4.png+1", "5.png+1"]


def test_shards_of_two_folders_with_the_same_keys(tmp_path: Path) -> None:
    first = write_shards(tmp_path / "a", 3)
    shutil.copytree(first, tmp_path / "again")
    other = listed(tmp_path / "files", "b", range(3), 50)
    spec = [str(first), str(tmp_path / "again"), other]
    found = evaluated(spec)
    # The second set is of the first one's pictures.
    assert found.caption_image == [0, 1, 2, 0, 1, 2, 3, 4, 5]
    assert found.keys[3:] == ["0.png+1", "1.png+1", "2.png+1"]
    read = open_source(spec[:2]).read
    assert [read(number).key for number in (2, 3)] == ["00002", "00000@1"]
    texts = [caption(number) for number in range(3)]
    assert [source.captions[0] for source in map(open_source(spec).read, range(6))] == texts * 2


def test_one_folder_keeps_its_ids(tmp_path: Path) -> None:
    """What a run noted of pictures stays right when it goes on."""
    data = write_shards(tmp_path / "a", 6, 3)
    alone = open_source(str(data))
    shards = open_source([str(path) for path in sorted(data.glob("*.tar"))])
    for number in range(6):
        assert alone.read(number).image_id == shards.read(number).image_id
