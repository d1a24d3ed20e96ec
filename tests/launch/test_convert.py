"""The conversion command: every direction, nothing written over, one line for what is wrong."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import transformers

import engine
from blip_model import Blip
from blip_model.beams import Beams
from blip_model.config import preset
from blip_model.convert.shapes import network_of
from engine import checkpoint
from engine.config import ConfigError
from engine.data.tokenizer import packaged_folder
from engine.weights import open_weights, start_from
from launch import convert
from tests import golden_files

ROOT = Path(__file__).resolve().parents[2]
CLASSES = {
    "pretrain": {".": "BlipForConditionalGeneration", "retrieval": "BlipForImageTextRetrieval"},
    "retrieval": {".": "BlipForImageTextRetrieval"},
    "filter": {".": "BlipForImageTextRetrieval"},
    "caption": {".": "BlipForConditionalGeneration"},
    "vqa": {".": "BlipForQuestionAnswering"},
}


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    """The command's main in this process."""
    monkeypatch.setattr(sys, "argv", ["convert.py", *map(str, words)])
    convert.main()


def pth(path: Path, name: str) -> dict[str, torch.Tensor]:
    weights = golden_files.read(name).under("weights.")
    torch.save({"model": weights}, path)
    return weights


@pytest.mark.parametrize("name", CLASSES)
def test_there_and_back_over_every_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    golden = pth(tmp_path / "in.pth", name)
    stages = [("original", "in.pth"), ("ours", "a"), ("hf", "b"), ("ours", "c")]
    stages += [("original", "out.pth")]
    for (origin, source), (target, output) in pairwise(stages):
        source, output = tmp_path / source, tmp_path / output
        words = ["--from", origin, "--input", source, "--to", target, "--output", output]
        run(monkeypatch, *words)
    back = torch.load(tmp_path / "out.pth", weights_only=True)["model"]
    assert back.keys() == golden.keys()
    assert all(torch.equal(back[key], golden[key]) for key in golden)
    for sub, kind in CLASSES[name].items():
        opened = getattr(transformers, kind).from_pretrained(
            tmp_path / "b" / sub, output_loading_info=True
        )[1]
        assert not any(opened.values()), opened
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"in.pth", "a", "b", "c", "out.pth"}


def test_a_network_for_two_pictures_goes_there_and_back_and_not_to_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    golden = pth(tmp_path / "in.pth", "nlvr")
    words = ["--from", "original", "--input", tmp_path / "in.pth", "--to"]
    run(monkeypatch, *words, "ours", "--output", tmp_path / "a")
    assert "image encoder, text encoder, head for two pictures, " in capsys.readouterr().out
    back = ["--from", "ours", "--input", tmp_path / "a", "--to", "original", "--output"]
    run(monkeypatch, *back, tmp_path / "out.pth")
    again = torch.load(tmp_path / "out.pth", weights_only=True)["model"]
    assert again.keys() == golden.keys()
    assert all(torch.equal(again[key], golden[key]) for key in golden)
    with pytest.raises(ConfigError, match="in.pth: transformers has no BLIP that looks at two"):
        run(monkeypatch, *words, "hf", "--output", tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_a_folder_for_transformers_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    config = preset("tiny")
    state = {"network": vars(config)}
    checkpoint.write_as(tmp_path / "ours", 0, {"model": Blip(config).state_dict()}, state)
    words = ["--from", "ours", "--input", tmp_path / "ours", "--to", "hf"]
    run(monkeypatch, *words, "--output", tmp_path / "hf")
    assert f"BlipForImageTextRetrieval in {tmp_path}/hf/retrieval" in capsys.readouterr().out
    processor = transformers.BlipProcessor.from_pretrained(tmp_path / "hf")
    ours = engine.load(str(tmp_path / "ours"), device="cpu")
    ids, mask = ours.encode(["a red kite over the sea"])
    picture = (torch.rand(40, 50, 3) * 255).byte().numpy()
    inputs = processor(images=picture, text="a red kite over the sea", return_tensors="pt")
    assert torch.equal(inputs["input_ids"], ids)
    assert processor.tokenizer.convert_tokens_to_ids(["[DEC]", "[ENC]"]) == [30522, 30523]
    torch.testing.assert_close(inputs["pixel_values"], ours.views(picture), rtol=0, atol=0.02)
    captioner = transformers.BlipForConditionalGeneration.from_pretrained(tmp_path / "hf").eval()
    views = ours.views(picture)
    prompt = ids[:, :-1].clone()
    prompt[:, 0] = config.bos_token_id
    length = {"max_length": 12, "min_length": 6}
    # transformers cuts the last token of a prompt, [SEP], and puts [DEC] first itself.
    theirs = captioner.generate(pixel_values=views, input_ids=ids.clone(), num_beams=1, **length)
    with torch.no_grad():
        logits = ours.model.decode(prompt, None, ours.model.encode_image(views))
    assert theirs[0, prompt.shape[1]] == logits[0, -1].argmax()


def test_transformers_answers_what_ours_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pth(tmp_path / "in.pth", "vqa")
    words = ["--from", "original", "--input", tmp_path / "in.pth", "--to", "hf"]
    run(monkeypatch, *words, "--output", tmp_path / "hf")
    theirs = transformers.BlipForQuestionAnswering.from_pretrained(tmp_path / "hf").eval()
    weights, batch = open_weights(str(tmp_path / "hf")), golden_files.read("vqa").tensors
    ours = network_of(weights.tensors, weights.config).eval()
    assert start_from(ours, weights).fresh == ()
    # Two questions of one length: transformers looks at padding when it answers.
    some = torch.tensor([0, 4])
    image, ids, mask = (batch[n][some] for n in ("image", "question_ids", "question_mask"))
    # And it leaves the first tokens to its caller.
    ids[:, 0] = weights.config.enc_token_id
    answers = batch["answer_ids"][some].index_fill(
        1, torch.tensor([0]), weights.config.bos_token_id
    )
    how = {"num_beams": 3, "max_length": 8, "min_length": 1}
    with torch.no_grad():
        questions = ours.read_questions(ids, mask, ours.encode_image(image))
        logits = ours.text_decoder(answers, None, questions.states, questions.mask)
        pictures = theirs.vision_model(image)[0]
        states = theirs.text_encoder(ids, mask, encoder_hidden_states=pictures)[0]
        out = theirs.text_decoder(answers, encoder_hidden_states=states)
        torch.testing.assert_close(logits, out.logits, rtol=1e-5, atol=1e-5)
        written = theirs.generate(ids, image, mask, **how)
    mine = ours.generate(questions, Beams(**how))
    assert torch.equal(mine[:, : written.shape[1]], written)


def test_position_embeddings_are_resized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pth(tmp_path / "in.pth", "pretrain")
    words = ["--from", "original", "--input", tmp_path / "in.pth", "--to", "ours"]
    run(monkeypatch, *words, "--output", tmp_path / "out", "--image_size", 64)
    weights = open_weights(str(tmp_path / "out"))
    assert weights.config.image_size == 64
    assert weights.tensors["visual_encoder_m.pos_embed"].shape == (1, 65, 32)
    with pytest.raises(ConfigError, match="image_size 60 is not a multiple of patch_size 8"):
        run(monkeypatch, *words, "--output", tmp_path / "odd", "--image_size", 60)
    assert not (tmp_path / "odd").exists()


def test_settings_can_come_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pth(tmp_path / "in.pth", "filter")
    (tmp_path / "c.yaml").write_text(
        f"from: original\ninput: {tmp_path}/in.pth\nto: ours\noutput: {tmp_path}/out\n"
    )
    run(monkeypatch, "--config", tmp_path / "c.yaml")
    assert open_weights(str(tmp_path / "out")).origin == "ours"


@pytest.mark.parametrize("target", ["original", "ours", "hf"])
def test_nothing_is_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    pth(tmp_path / "in.pth", "filter")
    words = ["--from", "original", "--input", tmp_path / "in.pth", "--to", target, "--output"]
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("file", "folder", "link"):
        with pytest.raises(ConfigError, match=f"{name} exists already"):
            run(monkeypatch, *words, tmp_path / name)
    assert (tmp_path / "file").read_text() == "mine"
    with pytest.raises(ConfigError, match="could not be written"):
        run(monkeypatch, *words, tmp_path / "file" / "below")
    assert len(list(tmp_path.iterdir())) == 4


def test_bad_input_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pth(tmp_path / "caption.pth", "caption")
    broken = golden_files.read("nlvr").under("weights.")
    del broken["cls_head.2.weight"]
    torch.save({"model": broken}, tmp_path / "nlvr.pth")
    for words, message in [
        (["--from", "hf", "--input", "caption.pth"], "is the original's"),
        (["--from", "original", "--input", "nlvr.pth"], "fit together: lacks cls_head.2.weight"),
        (["--from", "original", "--input", "missing.pth"], "no such file or folder"),
        (["--from", "original", "--input", "."], "no weights in it"),
        (["--from", "theirs", "--input", "."], "from: expected"),
        (["--from", "hf"], "--input missing"),
        (["--from", "hf", "--inpt", "."], "did you mean 'input'"),
    ]:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ConfigError, match=message):
            run(monkeypatch, *words, "--to", "ours", "--output", tmp_path / "out")
    words = ["--from", "original", "--input", "caption.pth", "--to", "hf", "--output", "out"]
    with pytest.raises(ConfigError, match="30524 tokens .* but the network has 96"):
        run(monkeypatch, *words, "--vocabulary", packaged_folder())
    assert not (tmp_path / "out").exists()


def test_the_command_ends_with_one_line_and_exit_code_two(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "launch" / "convert.py")]
    words = ["--from", "original", "--input", "missing.pth", "--to", "ours", "--output", "out"]
    done = subprocess.run([*command, *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "error: missing.pth: no such file or folder\n"
    assert list(tmp_path.iterdir()) == []
