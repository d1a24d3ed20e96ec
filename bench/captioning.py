"""Both sides' captions from pictures to token ids: ours and Hugging Face's generate."""

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import BlipForConditionalGeneration

from bench.interleaved import Side
from blip_model.caption import BlipCaption
from blip_model.config import BlipConfig
from blip_model.generate import beam_search, nucleus
from blip_model.stored_products import store_products
from engine.huggingface_folder import write_folder
from engine.runtime import start_apart

# [DEC] a picture of: what the original starts with. No caption may end before the last token, so
# that both sides always decode the same number of them.
PROMPT, MAX_LENGTH, BEAMS = (1037, 3861, 1997), 20, 3


def captioner(config: BlipConfig) -> BlipCaption:
    """The weights of both sides."""
    torch.manual_seed(0)
    return BlipCaption(config).eval()


def write_for_hugging_face(folder: Path, config: BlipConfig) -> None:
    """Those weights as Hugging Face's library reads them."""
    write_folder(folder, captioner(config).state_dict(), config, None)


def pictures(count: int, size: int, device: torch.device) -> torch.Tensor:
    """Noise [count, 3, size, size], the same for both sides."""
    generator = torch.Generator().manual_seed(count)
    return torch.randn(count, 3, size, size, generator=generator).to(device)


def hugging_face_program(
    folder: Path, count: int, mode: str, device: torch.device, precisions: Sequence[str]
) -> dict[str, Side]:
    """`generate` in a mode and several precisions, from a folder of its own format."""
    models = {"fp32": BlipForConditionalGeneration.from_pretrained(folder).to(device).eval()}
    if "bf16" in precisions:
        models["bf16"] = copy.deepcopy(models["fp32"]).to(torch.bfloat16)
    image = pictures(count, models["fp32"].config.vision_config.image_size, device)
    return {f"hugging face {p}": hugging_face(models[p], image, mode) for p in precisions}


def our_program(
    config: BlipConfig, count: int, mode: str, device: torch.device, precisions: Sequence[str]
) -> dict[str, Side]:
    """The same of ours."""
    # As what captions begins; on a CPU it keeps freed memory from here on.
    start_apart(device.type)
    models = {"fp32": captioner(config).to(device)}
    if "bf16" in precisions:
        models["bf16"] = copy.deepcopy(models["fp32"])
    # As `engine.load` opens weights that stay as they are.
    for precision, model in models.items():
        store_products(model, {"fp32": torch.float32, "bf16": torch.bfloat16}[precision])
    image = pictures(count, config.image_size, device)
    return {f"ours {p}": ours(models[p], image, mode, p) for p in precisions}


def hugging_face(model: BlipForConditionalGeneration, image: torch.Tensor, mode: str) -> Side:
    """`generate` with the settings of the mode; it drops the last token of what it is given."""
    config, image = model.config.text_config, image.to(model.dtype)
    start = [config.bos_token_id, *PROMPT, config.sep_token_id]
    ids = torch.tensor([start] * len(image), device=image.device)
    settings = {"num_beams": BEAMS, "do_sample": False}
    if mode == "nucleus":
        settings = {"do_sample": True, "top_p": 0.9, "top_k": 0, "repetition_penalty": 1.1}
    lengths = {"max_length": MAX_LENGTH, "min_length": MAX_LENGTH}
    mask = torch.ones_like(ids)
    return lambda: model.generate(image, ids.clone(), mask, **settings, **lengths)


def ours(model: BlipCaption, image: torch.Tensor, mode: str, precision: str) -> Side:
    """Encode once, then decode with static caches."""
    start = [model.config.bos_token_id, *PROMPT]
    ids = torch.tensor([start] * len(image), device=image.device)
    lengths = {"max_length": MAX_LENGTH, "min_length": MAX_LENGTH}

    @torch.no_grad()
    def caption() -> torch.Tensor:
        with torch.autocast(image.device.type, torch.bfloat16, enabled=precision == "bf16"):
            states = model.encode_image(image)
            if mode == "beam":
                return beam_search(model, states, ids, num_beams=BEAMS, **lengths)
            return nucleus(model, states, ids, top_p=0.9, repetition_penalty=1.1, **lengths)

    return caption
