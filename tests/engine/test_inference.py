"""`engine.load`: one call opens weights of any origin and captions, embeds and scores pictures."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import engine
from blip_model import Blip
from blip_model.pretrain import BlipPretrain
from engine import checkpoint
from engine.config import ConfigError, ModelSection
from engine.huggingface_folder import write_folder
from engine.inference import LoadedBlip
from engine.weight_files import write_original
from tests.shards import bomb, caption, picture
from tests.tiny import spread, tiny_config

pytestmark = pytest.mark.xdist_group("inference")

ORIGINS = ("run", "checkpoint", "pth", "hf")
# As large as no file may be, and takes no memory.
HUGE = np.broadcast_to(np.uint8(0), (5000, 6000, 3))


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same random weights as a run folder, a checkpoint, the original's and transformers'."""
    folder = tmp_path_factory.mktemp("weights")
    # By PyTorch 2.11's draws and by 2.13's, which differ, these tell pictures apart.
    torch.manual_seed(2)
    config = tiny_config()
    model = BlipPretrain(config)
    spread(model)
    weights, state = model.state_dict(), {"network": vars(config)}
    step = checkpoint.write(folder / "run" / "checkpoints", 3, {"model": weights}, state)
    write_original(folder / "blip.pth", weights)
    write_folder(folder / "hf", weights, config, None)
    for name, parts in [
        ("captioner", {"text_encoder": False}),
        ("scorer", {"text_decoder": False}),
    ]:
        part = Blip(config, **parts)
        checkpoint.write_as(folder / name, 0, {"model": part.state_dict()}, state)
    names = {name: folder / name for name in ("run", "hf", "captioner", "scorer")}
    return names | {"checkpoint": step, "pth": folder / "blip.pth"}


@pytest.fixture(scope="module")
def blip(places: dict[str, Path]) -> LoadedBlip:
    return engine.load(places["run"], device="cpu")


def encoded(image: Image.Image, form: str = "PNG") -> bytes:
    out = io.BytesIO()
    image.save(out, form)
    return out.getvalue()


def outputs(blip: LoadedBlip) -> dict[str, Any]:
    """Everything that weights can be asked for."""
    pictures, texts = [picture(n) for n in range(4)], [caption(n) for n in range(4)]
    return {
        "captions": blip.caption(pictures, max_length=12),
        "image_features": blip.embed_images(pictures),
        "text_features": blip.embed_texts(texts),
        "matches": blip.match(pictures, texts),
    }


@pytest.mark.parametrize("origin", ORIGINS[1:])
def test_every_origin_says_the_same(places: dict[str, Path], blip: LoadedBlip, origin: str) -> None:
    ours = outputs(blip)
    theirs = outputs(engine.load(str(places[origin]), device="cpu"))
    assert theirs.pop("captions") == ours.pop("captions")
    for name, value in ours.items():
        torch.testing.assert_close(theirs[name], value, rtol=0, atol=1e-5)


def test_outputs_are_what_the_network_gives(blip: LoadedBlip) -> None:
    """By its own functions, one picture and one text at a time."""
    found = outputs(blip)
    assert len(set(found["captions"])) > 1
    assert found["matches"].std() > 1e-3
    for number in range(4):
        ids, mask = blip.tokenizer.encode([caption(number)], 35)
        with torch.no_grad():
            states = blip.model.encode_image(blip.views(picture(number)))
            image = blip.model.image_feature(states)
            text = blip.model.text_feature(blip.model.encode_text(ids, mask))
            match = blip.model.match(ids, mask, states).softmax(1)[:, 1]
        assert blip.caption(picture(number), max_length=12) == [found["captions"][number]]
        for name, value in [("image_features", image), ("text_features", text), ("matches", match)]:
            torch.testing.assert_close(found[name][number], value[0], rtol=0, atol=1e-5)
    assert found["image_features"].norm(dim=1) == pytest.approx(torch.ones(4))
    assert not found["captions"][0].startswith("a picture of")


def test_one_batch_or_many(blip: LoadedBlip) -> None:
    pictures = [picture(n) for n in range(5)]
    whole = blip.caption(pictures, max_length=10)
    assert blip.caption(pictures, max_length=10, batch_size=2) == whole
    assert blip.caption(iter(pictures), max_length=10, batch_size=1) == whole


def test_samples_follow_their_generator(blip: LoadedBlip) -> None:
    def sampled(seed: int) -> list[str]:
        generator = torch.Generator().manual_seed(seed)
        pictures = [picture(0), picture(9)]
        return blip.caption(pictures, top_p=0.9, max_length=12, generator=generator)

    assert sampled(1) == sampled(1)
    assert sampled(1) != sampled(2)


MODES: dict[str, Callable[[], Image.Image]] = {
    "rgb": lambda: Image.open(io.BytesIO(picture(3))),
    "grey": lambda: Image.open(io.BytesIO(picture(3))).convert("L"),
    "black and white": lambda: Image.open(io.BytesIO(picture(3))).convert("1"),
    "palette": lambda: Image.open(io.BytesIO(picture(3))).convert("P"),
    "transparent": lambda: Image.new("RGBA", (20, 30), (200, 0, 0, 100)),
    "transparent grey": lambda: Image.new("LA", (20, 30), (50, 0)),
    "one pixel": lambda: Image.new("RGB", (1, 1), (10, 200, 30)),
    "16 bit": lambda: Image.fromarray(np.full((9, 9), 40_000, np.uint16)),
}


@pytest.mark.parametrize("mode", MODES)
def test_a_picture_is_the_same_in_every_form(blip: LoadedBlip, tmp_path: Path, mode: str) -> None:
    image = MODES[mode]()
    content = encoded(image)
    path = tmp_path / "picture.png"
    path.write_bytes(content)
    expected = blip.embed_images(str(path))
    assert expected.shape == (1, 16)
    for form in (path, content, bytearray(content), memoryview(content), image, Image.open(path)):
        assert torch.equal(blip.embed_images(form), expected)
    with path.open("rb") as opened:
        assert torch.equal(blip.embed_images(opened), expected)
    several = blip.embed_images([path, io.BytesIO(content), image])
    torch.testing.assert_close(several, expected.expand(3, -1), rtol=0, atol=1e-6)
    assert len(blip.caption(image, max_length=10)) == 1


@pytest.mark.parametrize(
    ("content", "colour"),
    [
        (Image.new("RGBA", (8, 8), (255, 0, 0, 0)), (255, 255, 255)),
        (Image.fromarray(np.full((8, 8), 0x8012, np.uint16)), (0x80, 0x80, 0x80)),
        (np.full((8, 8, 3), 7, np.uint8), (7, 7, 7)),
        (np.full((8, 8), 7, np.uint8), (7, 7, 7)),
        (np.full((8, 8), 0x8012, ">u2"), (0x80, 0x80, 0x80)),
        (np.ones((8, 8), bool), (255, 255, 255)),
        (np.full((8, 8, 4), (9, 9, 9, 0), np.uint8), (255, 255, 255)),
    ],
    ids=["transparent is white", "upper byte", "array", "grey", "wide", "bits", "clear array"],
)
def test_colours(blip: LoadedBlip, content: Any, colour: tuple[int, int, int]) -> None:
    plain = Image.new("RGB", (8, 8), colour)
    assert torch.equal(blip.views(content), blip.views(plain))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("missing.png", "missing.png: No such file or directory"),
        (Path("missing.png"), "missing.png: No such file or directory"),
        (b"", "a bytes: not a usable picture: empty"),
        (b"no picture", "a bytes: not a usable picture: wrong_format"),
        (picture(0)[:80], "not a usable picture: "),
        (bomb(20_000, 20_000), "not a usable picture: too_many_pixels"),
        (np.zeros((8, 8, 3), np.float64), "a ndarray: not a usable picture"),
        (np.zeros((2, 8, 8, 3), np.uint8), "a ndarray: not a usable picture"),
        (np.full((8, 8), np.nan, np.float32), "float32 [8, 8]: must be uint8 [H, W, 3] or [H, W]"),
        (np.ones((8, 8), np.int32), "int32 [8, 8]: must be uint8"),
        (np.ones((8, 8, 1), np.uint8), "uint8 [8, 8, 1]: must be uint8"),
        (np.ones(8, np.uint8), "uint8 [8]: must be uint8"),
        (np.ones((0, 8, 3), np.uint8), "a ndarray: not a usable picture: no_pixels"),
        (np.ones((1, 21, 3), np.uint8), "a ndarray: not a usable picture: too_thin"),
        (HUGE, "a ndarray: not a usable picture: too_many_pixels"),
        (Image.new("RGB", (0, 8)), "a Image: not a usable picture: no_pixels"),
        (Image.new("L", (21, 1)), "a Image: not a usable picture: too_thin"),
        (Image.new("F", (8, 8)), "not a usable picture: mode F, whose pixels are fractions"),
        (Image.open(io.BytesIO(bomb(6000, 5000))), "not a usable picture: too_many_pixels"),
        (None, "images is NoneType: must be one or many pictures"),
        ([None], "a NoneType: not a usable picture"),
        (torch.zeros(3, 8, 8), "images[0], a Tensor: not a usable picture: must be a file or its"),
        (io.StringIO("text"), "a StringIO: not a usable picture: a file opened as text"),
        ([], "no picture given"),
        ((), "no picture given"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_picture_is_one_line(blip: LoadedBlip, given: Any, message: str) -> None:
    for use in (blip.caption, blip.embed_images, lambda one: blip.match(one, "a dog")):
        with pytest.raises(ConfigError) as problem:
            use(given)
        assert message in str(problem.value)
        assert "\n" not in str(problem.value)


def test_a_torn_file_that_pillow_opened(blip: LoadedBlip, tmp_path: Path) -> None:
    """Pillow reads the pixels late."""
    whole = encoded(Image.effect_noise((64, 64), 80).convert("RGB"), "JPEG")
    (tmp_path / "torn.jpg").write_bytes(whole[: len(whole) // 2])
    for torn in (tmp_path / "torn.jpg", Image.open(tmp_path / "torn.jpg")):
        with pytest.raises(ConfigError, match="not a usable picture: .*truncated"):
            blip.embed_images(torn)


@pytest.mark.parametrize("texts", [[], ["a dog", ""], " .! ", ["a dog", None]])
def test_what_is_no_text_is_one_line(blip: LoadedBlip, texts: Any) -> None:
    refused = "no text given|is not usable: .*it (has no words|is no text)"
    for use in (blip.embed_texts, lambda many: blip.match([picture(0)] * 2, many)):
        with pytest.raises(ConfigError, match=refused):
            use(texts)


def test_as_many_texts_as_pictures(blip: LoadedBlip) -> None:
    with pytest.raises(ConfigError, match="2 pictures but 3 texts"):
        blip.match([picture(0), picture(1)], ["a", "b", "c"])
    with pytest.raises(ConfigError, match="2 pictures but 3 texts"):
        blip.match(iter([picture(0), picture(1)]), ["a", "b", "c"])
    with pytest.raises(ConfigError, match="more pictures than the 1 texts"):
        blip.match(map(picture, range(2)), ["a"])


def test_texts_are_cleaned_as_in_training(blip: LoadedBlip) -> None:
    ours = blip.embed_texts(["A  red FOX!", "a red fox " + "very " * 50])
    plain = blip.embed_texts(["a red fox", "a red fox " + "very " * 27])
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-6)


def test_weights_say_what_they_cannot_do(places: dict[str, Path]) -> None:
    captioner = engine.load(places["captioner"], device="cpu")
    assert len(captioner.caption(picture(0), max_length=10)) == 1
    for ask in (
        lambda: captioner.match(picture(0), "a dog"),
        lambda: captioner.embed_images(picture(0)),
        lambda: captioner.embed_texts("a dog"),
    ):
        with pytest.raises(ConfigError, match="cannot retrieve or score: .* no text_encoder"):
            ask()
    scorer = engine.load(places["scorer"], device="cpu")
    assert 0 <= scorer.match(picture(0), "a dog").item() <= 1
    with pytest.raises(ConfigError, match="cannot caption: they have no text_decoder"):
        scorer.caption(picture(0))


@pytest.mark.parametrize("length", [4, 65])
def test_captions_fit_between_prompt_and_positions(blip: LoadedBlip, length: int) -> None:
    with pytest.raises(ConfigError, match=f"max_length is {length}"):
        blip.caption(picture(0), max_length=length, min_length=1)


def test_captions_are_as_long_as_asked(blip: LoadedBlip) -> None:
    pictures = [picture(n) for n in range(4)]
    # [DEC] and the prompt's three words are four of the tokens.
    assert max(len(text.split()) for text in blip.caption(pictures, max_length=9)) <= 5
    assert blip.caption(picture(0), prompt="", max_length=9)


@pytest.mark.parametrize("place", ["missing.pth", Path("missing") / "folder" / "deep"])
def test_nothing_there_is_one_line(place: str | Path) -> None:
    with pytest.raises(ConfigError, match="no such file or folder"):
        engine.load(place)


def test_pictures_of_another_size(places: dict[str, Path], blip: LoadedBlip) -> None:
    larger = engine.load(places["run"], device="cpu", section=ModelSection(image_size=64))
    assert larger.views(picture(0)).shape == (1, 3, 64, 64)
    assert larger.embed_images(picture(0)).shape == blip.embed_images(picture(0)).shape
    with pytest.raises(ConfigError, match="model.image_size: image_size 30 is not a multiple"):
        engine.load(places["run"], device="cpu", section=ModelSection(image_size=30))


def test_bf16_is_close_to_fp32(places: dict[str, Path], blip: LoadedBlip) -> None:
    half = engine.load(places["run"], device="cpu", precision="bf16")
    pictures, texts = [picture(n) for n in range(4)], [caption(n) for n in range(4)]
    features, exact = half.embed_images(pictures), blip.embed_images(pictures)
    assert features.dtype == torch.float32
    assert (features * exact).sum(1).min() > 0.99
    assert not torch.equal(features, exact)
    torch.testing.assert_close(
        half.match(pictures, texts), blip.match(pictures, texts), atol=0.05, rtol=0
    )


def test_a_prompt_is_one_text_and_a_precision_is_known(blip: LoadedBlip) -> None:
    with pytest.raises(ConfigError, match="prompt is list: one text for all pictures"):
        blip.caption([picture(0)], prompt=["a", "b"])
    assert blip.caption(picture(0), prompt="\ud800 a")
    with pytest.raises(ConfigError, match="precision is 'fp16': choose fp32 or bf16"):
        engine.load("nowhere", precision="fp16")
