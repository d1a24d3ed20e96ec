"""Evaluation of dialogues: ranks are those of one candidate at a time, in the server's format."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from blip_model.med import Projections
from blip_model.visdial import BlipVisdial
from engine.config import ConfigError, DataSection, EvaluateSection, ModelSection, RunConfig
from engine.data.dialogue_set import DialogueSet
from engine.data.dialogue_text import dialogue_rows
from engine.data.dialogues import open_dialogues
from engine.evaluation.candidate_ranks import ndcg, rank_metrics, ranks
from engine.evaluation.run import evaluate
from engine.inference import load
from tests.shards import COLOURS, SHAPES, write_dialogues
from tests.tiny import spread, tiny_config, write_model


@pytest.fixture(scope="module")
def ranking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny network with spread weights and 20 dialogues about 16 pictures."""
    folder = tmp_path_factory.mktemp("visdial")
    torch.manual_seed(0)
    model = BlipVisdial(tiny_config())
    spread(model)
    write_model(folder / "model", model)
    write_dialogues(folder, 20)
    return folder


def results_of(folder: Path, out: Path, data: str = "dialogues.json", **settings: Any) -> tuple:
    config = RunConfig(
        output_dir=str(out),
        precision="fp32",
        device="cpu",
        model=ModelSection(preset="tiny", checkpoint=str(folder / "model")),
        data=DataSection(eval=str(folder / data), workers=0, max_words=50, max_bad_fraction=0.4),
        evaluate=EvaluateSection(**({"batch_size": 30} | settings)),
    )
    return evaluate(config, "visdial"), json.loads((out / "ranks.json").read_text())


def one_by_one(folder: Path) -> tuple[DialogueSet, list[np.ndarray]]:
    """Every candidate's score, a forward pass each."""
    blip, source = load(folder / "model", device="cpu"), open_dialogues(f"{folder}/dialogues.json")
    dialogues, scores = DialogueSet(source, 32, 50, 10**6), []
    for views, _ in dialogues.views(1):
        one, given = dialogues.rounds[-1], []
        with torch.no_grad():
            states = blip.model.encode_image(views)
            for row in dialogue_rows(blip.tokenizer, one.lines, one.candidates, 64):
                ids, mask = blip.tokenizer.pad([row])
                logits = blip.model.match(ids, mask, states)[0]
                given.append(float(logits[1] - logits[0]))
        scores.append(np.array(given))
    return dialogues, scores


def dense(folder: Path, *rows: tuple[int, int, list[float]]) -> str:
    """Dense annotations of some rounds."""
    names = ("image_id", "round_id", "gt_relevance")
    path = folder / f"dense{len(rows)}.json"
    path.write_text(json.dumps([dict(zip(names, row, strict=True)) for row in rows]))
    return str(path)


def test_candidates_are_ranked_as_one_by_one_whatever_the_batch(
    ranking: Path, tmp_path: Path
) -> None:
    shares = np.random.default_rng(0).choice([0, 0, 0.5, 1], (2, 12))
    shares[0, 3] = shares[1, 4] = 1
    asked = [(0, 1, shares[0].tolist()), (19, 2, shares[1].tolist()), (3, 1, [0] * 12)]
    annotations = {"dense_annotations": dense(tmp_path, *asked)}
    results, submitted = results_of(ranking, tmp_path / "a", **annotations)
    dialogues, scores = one_by_one(ranking)
    assert (results["task"], results["count"], results["bad_samples"]) == ("visdial", 40, 0)
    # Scores of fresh networks lie close, but not so close as rounding would swap them.
    assert min(np.diff(np.sort(given)).min() for given in scores) > 1e-6
    assert [row["ranks"] for row in submitted] == [ranks(given) for given in scores]
    names = [(row["image_id"], row["round_id"]) for row in submitted]
    assert names == [(number, one) for number in range(20) for one in (1, 2)]
    expected = [
        rank_metrics(given, one.right)
        for one, given in zip(dialogues.rounds, scores, strict=True)
        if one.right is not None
    ]
    for name in ("r1", "r5", "r10", "mrr", "mean_rank"):
        mean = np.mean([one[name] for one in expected])
        assert results["metrics"][name] == pytest.approx(mean), name
    gains = [ndcg(scores[0], shares[0]), ndcg(scores[39], shares[1])]
    assert results["metrics"]["ndcg"] == pytest.approx(np.mean(gains))
    assert results["chance"]["r5"] == pytest.approx(5 / 12)
    assert results["chance"]["mean_rank"] == 6.5
    check_cases(json.loads((tmp_path / "a" / "cases.json").read_text()), dialogues, scores)
    again = results_of(ranking, tmp_path / "b", **annotations, batch_size=1000)
    assert again[1] == submitted and again[0]["metrics"] == pytest.approx(results["metrics"])


def check_cases(cases: dict[str, Any], dialogues: DialogueSet, scores: list[np.ndarray]) -> None:
    """Whole dialogues, by the mean over their two rounds."""
    rights = [(given, one.right or 0) for one, given in zip(dialogues.rounds, scores, strict=True)]
    found = [1 + int((given > given[right]).sum()) for given, right in rights]
    of_dialogue = [found[n : n + 2] for n in range(0, 40, 2)]
    means = sorted((1 / first + 1 / second) / 2 for first, second in of_dialogue)
    assert cases["count"] == 20 and len(cases["best"]) == len(cases["worst"]) == 8
    for kind, furthest in (("best", means[-1]), ("worst", means[0])):
        assert cases[kind][0]["score"] == f"mean reciprocal rank {furthest:.2f}"
    for case in cases["best"] + cases["worst"]:
        (picture,) = case["pictures"]
        assert picture["image"].startswith("data:image/webp")
        shown = [int(one["score"].split()[1]) for one in case["rounds"]]
        number = int(picture["key"].partition(".")[0])
        # 20 dialogues about 16 pictures.
        assert shown in [of_dialogue[one] for one in range(number, 20, 16)]
        assert case["asked"] == "a drawing"
        assert [one["asked"] for one in case["rounds"]] == [
            "what colour is it?",
            "and which shape?",
        ]
        answers = [COLOURS[number % 8], SHAPES[number // 8]]
        assert [one["truth"] for one in case["rounds"]] == answers
        for one, rank in zip(case["rounds"], shown, strict=True):
            assert (one["output"] == one["truth"]) == (rank == 1)


def test_a_picture_is_projected_once_for_all_rounds_of_its_dialogue(
    ranking: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    project = Projections.keys_values

    def counted(maps: Projections, source: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(len(source))
        return project(maps, source)

    monkeypatch.setattr(Projections, "keys_values", counted)
    results_of(ranking, tmp_path, batch_size=24)
    assert seen == [1] * 20 * tiny_config().text_layers


def test_what_cannot_be_seen_is_ranked_as_it_stands_and_counted(
    ranking: Path, tmp_path: Path
) -> None:
    content = json.loads((ranking / "dialogues.json").read_text())
    tested = content["data"]["dialogs"][:3]
    for dialog in tested:
        dialog["dialog"][0].pop("answer_options")
        dialog["dialog"][0].pop("gt_index")
        for name in ("answer", "gt_index"):
            dialog["dialog"][1].pop(name)
    tested[1]["image"] = "missing.png"
    content["data"]["dialogs"] = tested
    (ranking / "test.json").write_text(json.dumps(content))
    results, submitted = results_of(ranking, tmp_path, "test.json")
    assert (results["count"], results["bad_samples"]) == (2, 1)
    assert (results["metrics"], results["chance"]) == ({}, {})
    by_name = {(row["image_id"], row["round_id"]): row["ranks"] for row in submitted}
    assert by_name.keys() == {(0, 2), (1, 2), (2, 2)}
    assert by_name[1, 2] == list(range(1, 13))
    assert all(sorted(given) == list(range(1, 13)) for given in by_name.values())
    assert results["examples"][0]["answer"] is None
    assert not (tmp_path / "cases.json").exists()


def test_dense_annotations_must_be_those_of_the_rounds(ranking: Path, tmp_path: Path) -> None:
    few = dense(tmp_path, (0, 1, [1, 0]))
    with pytest.raises(ConfigError, match=r"row 0 has 2 shares for the 12 candidates of 0.png \(r"):
        results_of(ranking, tmp_path / "a", dense_annotations=few)
    others = dense(tmp_path, (0, 3, [1] * 12), (99, 1, [1] * 12))
    with pytest.raises(ConfigError, match="is about none of the rounds of data.eval"):
        results_of(ranking, tmp_path / "a", dense_annotations=others)


def test_scores_that_are_not_finite_are_one_line(ranking: Path, tmp_path: Path) -> None:
    model = BlipVisdial(tiny_config())
    # Products overflow with it; what is no number is refused when weights are loaded.
    model.itm_head.weight.data.fill_(3e38)
    write_model(tmp_path / "model", model)
    write_dialogues(tmp_path, 2)
    with pytest.raises(ConfigError, match="scores are not finite"):
        results_of(tmp_path, tmp_path / "out")
