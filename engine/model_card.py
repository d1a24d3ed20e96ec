"""The model card of an exported folder: what the run says of its weights, and nothing else."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from blip_model.config import BlipConfig
from blip_model.convert.huggingface import ANSWERER, CAPTIONER, RETRIEVER
from engine.checkpoint import STATE
from engine.config import ConfigError, EvaluateSection
from engine.data.picture_files import printable
from engine.weight_files import HUB_NAME, is_checkpoint, locate

LONGEST, MOST_FIGURES, MOST_TEXT = 300, 40, 2000
PIPELINES = {
    CAPTIONER: "image-to-text",
    ANSWERER: "visual-question-answering",
    RETRIEVER: "zero-shot-image-classification",
}
DOES = {
    CAPTIONER: "writes captions of pictures",
    ANSWERER: "answers questions about pictures",
    RETRIEVER: "scores how well a text fits a picture",
}
SETTINGS = (
    *("train.global_batch_size", "train.learning_rate", "train.schedule", "train.weight_decay"),
    *("train.epochs", "train.max_steps", "precision", "seed"),
)
OPEN = """
from PIL import Image
from transformers import AutoProcessor, {kind}

processor, model = AutoProcessor.from_pretrained("."), {kind}.from_pretrained(".")
picture = Image.open("picture.jpg")
"""
WRITE = """
inputs = processor(images=picture, {text}return_tensors="pt")
lengths = {{"max_length": {max_length}, "min_length": {min_length}}}
ids = model.generate(**inputs, num_beams={num_beams}, **lengths)
print(processor.decode(ids[0], skip_special_tokens=True))
"""
SCORE = """
inputs = processor(images=picture, text="a red kite", return_tensors="pt")
print("cosine", model(**inputs, use_itm_head=False).itm_score.item())
# Matching reads the text behind [ENC] instead of [CLS], which this class leaves to its caller.
inputs["input_ids"][:, 0] = model.config.text_config.enc_token_id
print("match", model(**inputs).itm_score.softmax(1)[0, 1].item())
"""


@dataclass(frozen=True)
class Facts:
    """What is known of weights; empty where nothing is.

    Args:
        source: where they were read.
        state: of the checkpoint: its step, the pairs seen, the run's configuration.
        results: of evaluations in the run's folder, by their path in it.
        attribution: what the training data asks to be printed beside it.
    """

    source: str = ""
    state: dict[str, Any] = field(default_factory=dict)
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    attribution: str = ""

    def setting(self, key: str) -> Any:
        """A value of the run's configuration by its dotted key; None where there is none."""
        value = self.state.get("config")
        for name in key.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        return value


def facts_of(place: str) -> Facts:
    """What a run folder, or a checkpoint in one, says of its weights; other weights say nothing.

    Args:
        place: see `open_weights`.

    Raises:
        CheckpointError: nothing is there.
    """
    path = locate(place)
    if not is_checkpoint(path):
        return Facts(place)
    facts = Facts(place, _json(path / STATE))
    if path.parent.name != "checkpoints":
        return facts
    run = path.parent.parent
    found = [run / "results.json", *sorted(run.glob("evaluation/*/results.json"))]
    results = {str(path.relative_to(run)): _json(path) for path in found if path.is_file()}
    train = facts.setting("data.train")
    folders = [Path(train), Path(train).parent] if isinstance(train, str) else []
    names = [folder / "ATTRIBUTION.txt" for folder in folders]
    text = next((_text(name) for name in names if name.is_file()), "")
    return Facts(place, facts.state, results, text)


def model_card(kind: str, config: BlipConfig, facts: Facts) -> str:
    """Markdown with a YAML head, as the hub reads README.md.

    Args:
        kind: class of transformers that opens the folder.
        config: sizes.
        facts: of the weights.
    """
    head: dict[str, Any] = {"license": "unknown", "library_name": "transformers"}
    head |= {"pipeline_tag": PIPELINES[kind], "tags": ["blip", "vision-language"]}
    base = facts.setting("model.checkpoint")
    if isinstance(base, str) and _is_of_hub(base):
        head["base_model"] = base
    lines = ["---", yaml.safe_dump(head, sort_keys=False).strip(), "---", ""]
    lines += ["# BLIP", "", f"A BLIP network that {DOES[kind]}.", ""]
    lines += ["## Use", "", "In this folder, with a `picture.jpg`:", ""]
    lines += ["```python", _usage(kind, facts).strip(), "```", ""]
    lines += ["## Where it comes from", "", *_origin(config, facts), ""]
    lines += ["## Figures", "", *_figures(facts), ""]
    lines += ["## License", "", "The run names no license for these weights."]
    if facts.attribution:
        lines += ["Its training data asks for this line:", "", code(facts.attribution, MOST_TEXT)]
    return "\n".join(lines) + "\n"


def code(value: Any, longest: int = LONGEST) -> str:
    """Any value as a Markdown code span of one line, in which nothing has a meaning."""
    text = printable(value).replace("`", "'").strip()
    cut = text if len(text) <= longest else f"{text[: longest - 1]}…"
    return f"`{cut}`" if cut else "(empty)"


def _is_of_hub(place: str) -> bool:
    return bool(HUB_NAME.fullmatch(place)) and not Path(place).exists()


def _named(place: Any) -> str:
    """Weights by their name on a hub, or the last part of a path: its folders are one machine's."""
    return str(place) if _is_of_hub(str(place)) else Path(str(place)).name


def _usage(kind: str, facts: Facts) -> str:
    opening = OPEN.format(kind=kind)
    if kind == RETRIEVER:
        return opening + SCORE
    if kind == ANSWERER:
        lengths = {"num_beams": 3, "max_length": 10, "min_length": 1}
        return opening + WRITE.format(text='text="what is it?", ', **lengths)
    settings = {}
    for name in ("num_beams", "max_length", "min_length"):
        value = facts.setting(f"evaluate.{name}")
        settings[name] = value if type(value) is int else getattr(EvaluateSection(), name)
    prompt = facts.setting("evaluate.prompt")
    # A prompt that no fence of the card ends before its time.
    given = ascii(prompt).replace("`", r"\x60") if isinstance(prompt, str) and prompt else ""
    return opening + WRITE.format(text=given and f"text={given}, ", **settings)


def _origin(config: BlipConfig, facts: Facts) -> list[str]:
    lines = [
        f"- network: pictures of {config.image_size} pixels, image encoder of "
        f"{config.vision_layers} layers and width {config.vision_width}, text side of "
        f"{config.text_layers} layers and width {config.text_width}"
    ]
    if not facts.setting("train"):
        whence = f"converted from {code(_named(facts.source))}; " if facts.source else ""
        return [*lines, f"- {whence}nothing is known of their training"]
    lines.append(f"- task: {code(facts.setting('task') or 'pretraining')}")
    starts = [facts.setting(f"model.{name}") for name in ("checkpoint", "init_vision", "init_text")]
    named = ", ".join(code(_named(start)) for start in starts if start)
    lines.append(f"- started from: {named or 'random weights'}")
    train = facts.setting("data.train")
    places = train if isinstance(train, list) else [train]
    lines.append(
        f"- training data: {', '.join(code(Path(str(place)).name) for place in places[:8])}"
    )
    for key, name in (("step", "optimizer steps"), ("samples_seen", "samples seen")):
        if isinstance(facts.state.get(key), int):
            lines.append(f"- {name}: {facts.state[key]:,}")
    given = [(key, facts.setting(key)) for key in SETTINGS]
    if facts.setting("train.max_steps") is not None:
        # Which ends the run, whatever the epochs are.
        given = [(key, value) for key, value in given if key != "train.epochs"]
    shown = ", ".join(f"{key} {code(value)}" for key, value in given if value is not None)
    return [*lines, f"- settings: {shown}"]


def _figures(facts: Facts) -> list[str]:
    rows = []
    for path, results in facts.results.items():
        metrics, chance = results.get("metrics"), results.get("chance")
        for name, value in metrics.items() if isinstance(metrics, dict) else ():
            by_chance = chance.get(name) if isinstance(chance, dict) else None
            cells = [code(path), code(name), _number(value), _number(by_chance)]
            # The table's own separator means something even in a code span.
            rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    if not rows:
        return ["Not evaluated: the run's folder holds no results."]
    head = ["| evaluation | figure | value | by chance |", "| --- | --- | --- | --- |"]
    return [*head, *rows[:MOST_FIGURES]]


def _number(value: Any) -> str:
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return f"{value:.4g}" if known and math.isfinite(value) else "–"


def _json(path: Path) -> dict[str, Any]:
    """A file's JSON object; an empty one where it is something else."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return tree if isinstance(tree, dict) else {}


def _text(path: Path) -> str:
    try:
        return " ".join(path.read_text(encoding="utf-8", errors="replace").split())
    except OSError as error:
        raise ConfigError(f"{path}: not readable: {error.strerror}") from None
