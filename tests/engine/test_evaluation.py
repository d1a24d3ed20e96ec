"""Evaluation with a tiny network on drawn pictures: figures, their repetition, and bad input."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from blip_model import Blip
from engine.config import ConfigError, DataSection, EvaluateSection, ModelSection, RunConfig
from engine.data.evaluation_set import EvaluationSet
from engine.data.open_source import open_source
from engine.data.shard_writer import ShardWriter
from engine.evaluation.metrics import bleu, chance_recalls, cider_d, retrieval_recalls, word_f1
from engine.evaluation.retrieval import evaluate_retrieval, match_listed, shortlisted
from engine.evaluation.run import evaluate
from engine.inference import LoadedBlip, load
from engine.progress import Progress
from tests.shards import caption, picture, write_shards
from tests.tiny import spread, tiny_config, write_model

COUNT = 14
WAYS = ("text_to_image", "image_to_text")
KEYS = {"task", "metrics", "chance", "count", "bad_samples", "bad_named", "examples"}
KEYS |= {"checkpoint", "step", "data", "settings"}
RECALLS = [f"{way}_r{k}" for way in WAYS for k in (1, 5, 10)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards, the same pictures as files with several captions each, and weights."""
    folder = tmp_path_factory.mktemp("evaluation")
    write_shards(folder / "data", COUNT, per_shard=5)
    rows = []
    for number in range(COUNT):
        (folder / f"{number}.png").write_bytes(picture(number))
        texts = [caption(number), f"number {number}, once more", f"the {number}th"][
            : 1 + number % 3
        ]
        rows.append({"image": f"{number}.png", "caption": texts, "image_id": number})
    (folder / "several.json").write_text(json.dumps(rows))
    torch.manual_seed(0)
    model = Blip(tiny_config())
    spread(model)
    write_model(folder / "weights", model)
    with torch.no_grad():
        model.vision_proj.weight.fill_(float("nan"))
        model.visual_encoder.norm.weight.fill_(float("nan"))
    write_model(folder / "diverged", model)
    return folder


@pytest.fixture(scope="module")
def blip(folder: Path) -> LoadedBlip:
    return load(folder / "weights", device="cpu")


def pairs_of(place: Path, max_words: int = 30) -> EvaluationSet:
    return EvaluationSet(open_source(str(place)), 32, max_words, 10_000)


def config_of(folder: Path, output: Path, place: str = "data", **evaluation: Any) -> RunConfig:
    """An evaluation in fp32."""
    return RunConfig(
        output_dir=str(output),
        precision="fp32",
        device="cpu",
        model=ModelSection(preset="tiny", checkpoint=str(folder / "weights")),
        data=DataSection(eval=str(folder / place), max_bad_fraction=0.3),
        evaluate=EvaluateSection(**({"batch_size": 4, "max_length": 9} | evaluation)),
    )


def results_of(config: RunConfig, task: str) -> dict[str, Any]:
    """What is written, without what a clock says."""
    evaluate(config, task)
    results = json.loads((Path(config.output_dir) / "results.json").read_text())
    assert results.pop("seconds") > 0
    return results


def all_scores(blip: LoadedBlip, pairs: EvaluationSet) -> tuple[np.ndarray, np.ndarray]:
    """Similarities and matching scores of every picture with every text, one by one."""
    views = [view[None] for batch in pairs.views(3) for view in batch]
    similarity = np.zeros((len(views), len(pairs.captions)), np.float32)
    scores = similarity.copy()
    with torch.no_grad():
        states = [blip.model.encode_image(view) for view in views]
        for t, text in enumerate(pairs.captions):
            ids, mask = blip.tokenizer.encode([text], 35)
            feature = blip.model.text_feature(blip.model.encode_text(ids, mask))
            for i, image_states in enumerate(states):
                cosine = (blip.model.image_feature(image_states) @ feature.T).item()
                matched = blip.model.match(ids, mask, image_states)[0, 1].item()
                similarity[i, t], scores[i, t] = cosine, matched + cosine
    return similarity, scores


@pytest.mark.parametrize("shortlist", [1, 3, 5, 500])
@pytest.mark.parametrize("place", ["data", "several.json"])
def test_reranking_equals_scoring_every_pair(
    folder: Path, blip: LoadedBlip, place: str, shortlist: int
) -> None:
    counted = pairs_of(folder / place)
    similarity, scores = all_scores(blip, counted)
    owners = np.array(counted.caption_image)
    images, texts = similarity.shape
    by_picture, by_text = (np.zeros((images, texts), bool) for _ in range(2))
    for i in range(images):
        by_picture[i, np.argsort(-similarity[i])[:shortlist]] = True
    for t in range(texts):
        by_text[np.argsort(-similarity[:, t])[:shortlist], t] = True
    assert by_text.all() == (shortlist == 500)
    # Each direction by its own list, as in the original's two score matrices.
    expected = {
        name: value
        for listed, way in ((by_text, "text_to_image"), (by_picture, "image_to_text"))
        for name, value in retrieval_recalls(
            np.where(listed, scores, similarity - 100), owners
        ).items()
        if name.startswith(way)
    }
    alone = retrieval_recalls(similarity, owners)
    found = evaluate_retrieval(
        blip, pairs_of(folder / place), EvaluateSection(batch_size=4, shortlist=shortlist)
    )
    for name in RECALLS:
        assert found["metrics"][name] == pytest.approx(expected[name]), name
        assert found["metrics"][f"{name}_without_matching"] == pytest.approx(alone[name]), name
    assert found["chance"] == chance_recalls(owners, images)
    assert found["count"] == images == COUNT
    # A shortlist of everything that ranks like the similarity alone would show nothing.
    assert shortlist < 500 or not np.array_equal(np.argsort(scores, 0), np.argsort(similarity, 0))


def test_reranked_scores_are_those_of_single_pairs(folder: Path, blip: LoadedBlip) -> None:
    pairs = pairs_of(folder / "several.json")
    similarity, scores = all_scores(blip, pairs)
    cosines = torch.from_numpy(similarity)
    lists = [shortlisted(cosines, 2, dim) for dim in (0, 1)]
    assert (lists[0].sum(0) == 2).all() and (lists[1].sum(1) == 2).all()
    listed = lists[0] | lists[1]
    assert not listed.all() and not torch.equal(*lists)
    ids, mask = blip.encode(pairs.captions)
    with torch.no_grad():
        views = torch.cat(list(pairs_of(folder / "several.json").views(50)))
        states = blip.model.encode_image(views)
        for size in (1, 50):
            progress = Progress("matched", "pairs")
            found = match_listed(blip, ids, mask, states, listed, size, progress)
            assert (found[~listed] == 0).all()
            expected = torch.from_numpy(scores - similarity)[listed]
            torch.testing.assert_close(found[listed], expected, rtol=0, atol=1e-5)


def test_results_of_retrieval(folder: Path, tmp_path: Path) -> None:
    results = results_of(config_of(folder, tmp_path / "out"), "retrieval")
    assert set(results) == KEYS
    assert results["task"] == "retrieval"
    assert (results["checkpoint"], results["step"]) == (str(folder / "weights"), 0)
    assert set(results["metrics"]) == {*RECALLS, *(f"{name}_without_matching" for name in RECALLS)}
    assert set(results["chance"]) == set(RECALLS)
    assert results["chance"]["text_to_image_r5"] == pytest.approx(5 / COUNT)
    assert (results["count"], results["bad_samples"]) == (COUNT, 0)
    assert len(results["examples"]) == COUNT
    ranks = []
    for number, example in enumerate(results["examples"]):
        assert example["query"] == caption(number)
        assert example["truth"] == f"{number:05d}"
        assert example["scores"] == sorted(example["scores"], reverse=True)
        assert len(example["top"]) == len(example["scores"]) == 5
        place = example["top"].index(example["truth"]) + 1 if example["rank"] <= 5 else None
        assert place is None or place == example["rank"]
        ranks.append(example["rank"])
    assert results["metrics"]["text_to_image_r1"] == pytest.approx(np.mean(np.array(ranks) <= 1))
    assert results["metrics"]["text_to_image_r5"] == pytest.approx(np.mean(np.array(ranks) <= 5))


def test_results_of_captioning(folder: Path, tmp_path: Path, blip: LoadedBlip) -> None:
    results = results_of(config_of(folder, tmp_path / "out", "several.json"), "caption")
    assert set(results) == KEYS
    examples = results["examples"]
    texts = [example["generated"] for example in examples]
    assert texts == blip.caption([picture(n) for n in range(COUNT)], max_length=9)
    references = [example["references"] for example in examples]
    assert references[5] == [caption(5), "number 5, once more", "the 5th"]
    assert [len(group) for group in references] == [1 + n % 3 for n in range(COUNT)]
    assert [example["key"] for example in examples] == [f"{n}.png" for n in range(COUNT)]
    assert [example["image_id"] for example in examples] == list(range(COUNT))
    sent = json.loads((tmp_path / "out" / "captions.json").read_text())
    assert sent == [{"image_id": n, "caption": text} for n, text in enumerate(texts)]
    assert results["metrics"]["bleu1"] == bleu(texts, references, 1)
    for name, score in (("cider", cider_d), ("bleu4", bleu), ("word_f1", word_f1)):
        assert results["metrics"][name] == score(texts, references)
        assert results["chance"][name] == score(texts[1:] + texts[:1], references)


@pytest.mark.parametrize("task", ["retrieval", "caption"])
def test_repetition_and_batch_size_change_nothing(folder: Path, tmp_path: Path, task: str) -> None:
    config = config_of(folder, tmp_path / "out", "several.json")
    first = results_of(config, task)
    assert results_of(config, task) == first
    scores = [example.pop("scores", []) for example in first["examples"]]
    for size in (1, 5, 64):
        other = replace(config, evaluate=replace(config.evaluate, batch_size=size))
        again = results_of(other, task)
        for example, ours in zip(again["examples"], scores, strict=True):
            assert example.pop("scores", []) == pytest.approx(ours, abs=1e-5)
        assert again == first
    files = ["captions.json"] * (task == "caption") + ["cases.json", "results.json"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(files)


BAD = {
    "broken": (b"no picture", "a broken one"),
    "torn": (picture(3)[:90], "a torn one"),
    "silent": (picture(4), " .! "),
    "huge": (picture(5, size=200), "more pixels than allowed"),
}


@pytest.mark.parametrize("task", ["retrieval", "caption"])
def test_bad_pictures_are_counted_and_shift_nothing(
    folder: Path, tmp_path: Path, task: str
) -> None:
    with ShardWriter(tmp_path / "data", "mixed", 7) as writer:
        for number in range(COUNT):
            if number in (0, 3, 9, 13):
                name = list(BAD)[(0, 3, 9, 13).index(number)]
                writer.add(name, BAD[name][0], "png", BAD[name][1], {"uid": name})
            facts = {"uid": f"uid-{number}"}
            writer.add(f"{number:05d}", picture(number), "png", caption(number), facts)
    config = config_of(folder, tmp_path / "out")
    clean = results_of(config, task)
    data = replace(config.data, eval=str(tmp_path / "data"), max_pixels=10_000)
    mixed = results_of(replace(config, data=data, output_dir=str(tmp_path / "mixed")), task)
    assert (clean.pop("bad_samples"), mixed.pop("bad_samples")) == (0, 4)
    assert (clean.pop("bad_named"), len(mixed.pop("bad_named"))) == ([], 4)
    # Batches are of rows, good or bad: sums may come in another order, and nothing else may.
    for ours, theirs in zip(mixed["examples"], clean["examples"], strict=True):
        assert ours.pop("scores", []) == pytest.approx(theirs.pop("scores", []), abs=1e-5)
    assert mixed == clean | {"data": data.eval}
    pairs = pairs_of(tmp_path / "data")
    assert sum(len(views) for views in pairs.views(4)) == COUNT
    reasons = dict(pairs.bad)
    assert reasons.keys() == BAD.keys()
    assert reasons["broken"] == "wrong_format"
    assert (reasons["silent"], reasons["huge"]) == ("empty_caption", "too_many_pixels")


@pytest.mark.parametrize("task", ["retrieval", "caption"])
def test_one_pair_is_a_set(folder: Path, tmp_path: Path, task: str) -> None:
    write_shards(tmp_path / "data", 1)
    config = config_of(folder, tmp_path / "out")
    config = replace(config, data=replace(config.data, eval=str(tmp_path / "data")))
    results = results_of(config, task)
    assert results["count"] == 1
    if task == "retrieval":
        assert all(results["metrics"][name] == results["chance"][name] == 1 for name in RECALLS)
    else:
        assert results["chance"] == {}


@pytest.mark.parametrize("task", ["retrieval", "caption"])
def test_nothing_to_evaluate_is_one_line(folder: Path, tmp_path: Path, task: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.json").write_text('[{"image": "missing.png", "caption": "a dog"}]')
    config = config_of(folder, tmp_path / "out")
    for place, message in [
        (None, "no pairs: set data.eval"),
        ("", "no pairs: set data.eval"),
        (str(tmp_path / "empty"), "no .tar shard in this folder"),
        (str(tmp_path / "missing"), "no such file or folder"),
        (str(tmp_path / "bad.json"), r"1 of 1, more than .*; the first is missing\.png \(mis"),
    ]:
        with pytest.raises(ConfigError, match=message) as problem:
            evaluate(replace(config, data=replace(config.data, eval=place)), task)
        assert "\n" not in str(problem.value)
    model = replace(config.model, checkpoint=None)
    with pytest.raises(ConfigError, match="no model: set model.checkpoint"):
        evaluate(replace(config, model=model), task)
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize("task", ["retrieval", "caption"])
def test_weights_that_are_not_finite_get_no_figures(
    folder: Path, tmp_path: Path, task: str
) -> None:
    """Comparisons with NaN are all false: unchecked, such a model would be first everywhere."""
    config = config_of(folder, tmp_path / "out")
    model = replace(config.model, checkpoint=str(folder / "diverged"))
    with pytest.raises(ConfigError, match="not finite"):
        evaluate(replace(config, model=model), task)
    assert not list(tmp_path.glob("out/*"))
