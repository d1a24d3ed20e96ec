"""Folders for transformers answer what ours answers, and their cards say what the run says."""

import contextlib
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from PIL import Image
from safetensors.torch import load_file

import engine
from blip_model import Blip
from blip_model.convert.huggingface import CAPTIONER
from blip_model.generate import beam_search
from blip_model.vqa import BlipVqa
from engine import checkpoint
from engine.config import (
    DataSection,
    EvaluateSection,
    ModelSection,
    RunConfig,
    TrainSection,
    to_dict,
)
from engine.convert import convert
from engine.inference import LoadedBlip
from engine.model_card import Facts, model_card
from tests.shards import picture
from tests.tiny import spread, tiny_config


def write_run(root: Path, network: Blip, task: str | None = None, **given: Any) -> Path:
    """A run folder with one checkpoint, of a run that was told `given`."""
    spread(network)
    config = RunConfig(
        output_dir=str(root),
        precision="fp32",
        model=ModelSection(preset="tiny", dropout=0.0, checkpoint=given.pop("checkpoint", None)),
        data=DataSection(train=given.pop("train", "pairs")),
        train=TrainSection(global_batch_size=6, **given),
        evaluate=EvaluateSection(prompt="a picture of ", num_beams=4, max_length=11, min_length=6),
    )
    tree = to_dict(config) | ({"task": task} if task else {})
    state = {"config": tree, "samples_seen": 42}
    checkpoint.write(root / "checkpoints", 7, {"model": network.state_dict()}, state)
    return root


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of ours, and what is made of them for transformers."""
    folder = tmp_path_factory.mktemp("interchange")
    for name, kind in (("med", Blip), ("vqa", BlipVqa)):
        torch.manual_seed(1)
        network = kind(ModelSection(preset="tiny", dropout=0.0).network())
        run = write_run(folder / name, network, "vqa" if name == "vqa" else None)
        list(convert(str(run), str(folder / f"{name}_hf"), origin="ours", target="hf"))
    for hf in ("med_hf", "med_hf/retrieval", "vqa_hf"):
        Image.open(io.BytesIO(picture(3, size=50))).save(folder / hf / "picture.jpg", quality=95)
    return folder


def ours(exported: Path, name: str) -> LoadedBlip:
    return engine.load(exported / name, device="cpu")


def opened(folder: Path, kind: str) -> tuple[Any, Any, Image.Image]:
    """A folder as a user of transformers opens it, and the picture in it."""
    model = getattr(transformers, kind).from_pretrained(folder).eval()
    shown = Image.open(folder / "picture.jpg")
    return transformers.AutoProcessor.from_pretrained(folder), model, shown


def said_by_card(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the code in a folder's card prints there."""
    card = (folder / "README.md").read_text()
    program = card.partition("```python\n")[2].partition("```")[0]
    monkeypatch.chdir(folder)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(program, {})  # noqa: S102 - the card's own program
    return out.getvalue().splitlines()


def test_captions_agree_token_for_token(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    processor, model, shown = opened(exported / "med_hf", "BlipForConditionalGeneration")
    blip = ours(exported, "med")
    how = {"num_beams": 4, "max_length": 11, "min_length": 6}
    inputs = processor(images=shown, text="a picture of", return_tensors="pt")
    torch.testing.assert_close(inputs["pixel_values"], blip.views(shown), rtol=0, atol=1e-5)
    theirs = model.generate(**inputs, **how)
    with torch.no_grad():
        states = blip.model.encode_image(blip.views(shown))
        mine = beam_search(blip.model, states, blip.prompt_ids("a picture of", 11), **how)
    assert torch.equal(mine[:, : theirs.shape[1]], theirs)
    assert (mine[:, theirs.shape[1] :] == 0).all()
    found = blip.caption(shown, prompt="a picture of ", **how)
    said = said_by_card(exported / "med_hf", monkeypatch)
    assert said == [f"a picture of {found[0]}"]


def test_scores_agree(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = exported / "med_hf" / "retrieval"
    processor, model, shown = opened(folder, "BlipForImageTextRetrieval")
    blip, texts = ours(exported, "med"), ["a red kite", "a far longer text about a blue square"]
    given = {"images": [shown] * 2, "padding": True, "return_tensors": "pt"}
    inputs = processor(text=texts, **given)
    with torch.no_grad():
        cosines = model(**inputs, use_itm_head=False).itm_score[0]
        inputs["input_ids"][:, 0] = model.config.text_config.enc_token_id
        matched = model(**inputs).itm_score.softmax(1)[:, 1]
    mine = blip.embed_images(shown) @ blip.embed_texts(texts).T
    torch.testing.assert_close(cosines, mine[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(matched, blip.match(shown, texts), rtol=0, atol=1e-5)
    assert abs(matched[0] - matched[1]) > 1e-3
    cosine, match = (float(line.split()[1]) for line in said_by_card(folder, monkeypatch))
    assert (cosine, match) == pytest.approx((mine[0, 0].item(), matched[0].item()), abs=1e-5)


def test_answers_agree(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    processor, model, shown = opened(exported / "vqa_hf", "BlipForQuestionAnswering")
    blip, questions = ours(exported, "vqa"), ["what is it?", "which colour has it?"]
    how = {"num_beams": 3, "max_length": 10, "min_length": 1}
    for question in questions:
        inputs = processor(images=shown, text=question, return_tensors="pt")
        ids, mask = blip.tokenizer.encode([question], 35)
        # As ours reads it: behind [ENC].
        ids[:, 0] = blip.model.config.enc_token_id
        assert torch.equal(inputs["input_ids"], ids)
        written = model.generate(**inputs, **how)
        found = processor.decode(written[0], skip_special_tokens=True)
        assert [found] == blip.answer(shown, question, **how)
        assert found
    assert said_by_card(exported / "vqa_hf", monkeypatch) == blip.answer(shown, questions[0])


@pytest.mark.parametrize("name", ["med_hf", "med_hf/retrieval", "vqa_hf"])
def test_a_folder_comes_back_bit_by_bit(exported: Path, tmp_path: Path, name: str) -> None:
    """Each class alone, as the hub has it."""
    given = tmp_path / "given"
    given.mkdir()
    for path in (exported / name).iterdir():
        if path.is_file() and path.name != "blip_training.safetensors":
            (given / path.name).write_bytes(path.read_bytes())
    list(convert(str(given), str(tmp_path / "ours"), origin="hf", target="ours"))
    list(convert(str(tmp_path / "ours"), str(tmp_path / "back"), origin="ours", target="hf"))
    for path in given.iterdir():
        again = tmp_path / "back" / path.name
        if path.suffix == ".safetensors":
            before, after = load_file(path), load_file(again)
            assert before.keys() == after.keys()
            assert all(torch.equal(before[key], after[key]) for key in before)
        elif path.suffix == ".json":
            assert json.loads(again.read_text()) == json.loads(path.read_text())
    files = {path.name for path in (tmp_path / "back").iterdir()}
    wanted = {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"}
    wanted |= {"tokenizer.json", "tokenizer_config.json"}
    assert wanted <= files
    assert ("generation_config.json" in files) == ("retrieval" not in name)
    card = (tmp_path / "back" / "README.md").read_text()
    assert "converted from `ours`; nothing is known of their training" in card
    assert "Not evaluated" in card


HOSTILE = "`</code>|\n---\n# owned\n<script>x</script> [a](b) \"'{0}\u202e"


def parts_of(card: str) -> tuple[dict[str, Any], list[str]]:
    """The YAML head of a card, and the lines below it."""
    before, head, rest = card.split("---\n", 2)
    assert before == ""
    return yaml.safe_load(head), rest.splitlines()


def test_the_card_says_what_the_run_says(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "ATTRIBUTION.txt").write_text("Drawn by Somebody,\nCC BY 4.0\n")
    network = Blip(ModelSection(preset="tiny", dropout=0.0).network(), text_encoder=False)
    given = {"train": str(data / "train"), "checkpoint": "Salesforce/blip-base"}
    run = write_run(tmp_path / "run", network, "caption", learning_rate=3e-5, **given)
    results = {"metrics": {"cider": 1.25, "bleu4": None}, "chance": {"cider": 0.04}}
    (run / "evaluation" / "caption").mkdir(parents=True)
    (run / "evaluation" / "caption" / "results.json").write_text(json.dumps(results))
    list(convert(str(run), str(tmp_path / "hf"), origin="ours", target="hf"))
    head, lines = parts_of((tmp_path / "hf" / "README.md").read_text())
    assert head == {
        "license": "unknown",
        "library_name": "transformers",
        "pipeline_tag": "image-to-text",
        "tags": ["blip", "vision-language"],
        "base_model": "Salesforce/blip-base",
    }
    for line in (
        "- task: `caption`",
        "- started from: `Salesforce/blip-base`",
        "- training data: `train`",
        "- optimizer steps: 7",
        "- samples seen: 42",
        "| `evaluation/caption/results.json` | `cider` | 1.25 | 0.04 |",
        "| `evaluation/caption/results.json` | `bleu4` | – | – |",
        "`Drawn by Somebody, CC BY 4.0`",
    ):
        assert line in lines, line
    settings = next(line for line in lines if line.startswith("- settings: "))
    assert "train.learning_rate `3e-05`" in settings
    assert "train.global_batch_size `6`" in settings
    assert "max_steps" not in settings


def test_the_card_names_no_folders_of_a_machine_and_no_ignored_setting() -> None:
    config = {
        "train": {"epochs": 20, "max_steps": 500},
        "data": {"train": ["/home/somebody/web/{00000..00009}.tar", "/mnt/clean/"]},
        "model": {"checkpoint": "/home/somebody/runs/base"},
    }
    card = model_card(CAPTIONER, tiny_config(), Facts("/home/somebody/x", {"config": config}))
    assert "- started from: `base`\n- training data: `{00000..00009}.tar`, `clean`\n" in card
    assert "- settings: train.max_steps `500`\n" in card
    assert "somebody" not in card


def test_hostile_names_stay_names(tmp_path: Path) -> None:
    facts = Facts(
        HOSTILE,
        {
            "config": {
                "task": HOSTILE,
                "train": {"schedule": HOSTILE, "epochs": [HOSTILE]},
                "data": {"train": [HOSTILE, 3]},
                "model": {"checkpoint": HOSTILE, "init_text": {"a": HOSTILE}},
                "evaluate": {"prompt": f"```\n{HOSTILE}", "num_beams": HOSTILE},
            },
            "step": HOSTILE,
        },
        {HOSTILE: {"metrics": {HOSTILE: 0.5, "a": float("nan"), "b": HOSTILE}, "chance": 3}},
        HOSTILE,
    )
    plain = model_card(CAPTIONER, tiny_config(), replace(facts, results={}, attribution=""))
    card = model_card(CAPTIONER, tiny_config(), facts)
    head, lines = parts_of(card)
    assert set(head) == {"license", "library_name", "pipeline_tag", "tags"}
    assert "base_model" not in head
    # What stands outside of code is ours: no line, cell, mark or element comes from a name.
    program = card.partition("```python\n")[2].partition("\n```\n")[0]
    assert "\n```" not in program
    compile(program, "card", "exec")
    outside = [re.sub(r"`[^`]*`", "", line) for line in card.replace(program, "").splitlines()]
    assert not [line for line in outside if re.search(r"script|owned|\]\(|\u202e", line)]
    rows = [line for line in lines if line.startswith("| `")]
    assert [len(re.findall(r"(?<!\\)\|", row)) for row in rows] == [5, 5, 5]
    assert [line for line in lines if line.startswith("#")] == [
        *("# BLIP", "## Use", "## Where it comes from", "## Figures", "## License")
    ]
    assert card.count("\n---\n") == plain.count("\n---\n") == 1
