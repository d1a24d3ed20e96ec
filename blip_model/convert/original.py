"""The original's state dicts and ours: the same names, but for what can be derived."""

import torch

from blip_model.momentum import NO_IMAGE_ID

WORDS = "embeddings.word_embeddings.weight"
PREDICTIONS = "text_decoder.cls.predictions."
# Stored name: the name of the tensor that it is, by the network's construction.
TIED_HEAD = {
    f"{PREDICTIONS}decoder.weight": f"text_decoder.bert.{WORDS}",
    f"{PREDICTIONS}decoder.bias": f"{PREDICTIONS}bias",
}


def from_original(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The original's names -> ours: position ids, which count from 0, are dropped."""
    kept = {name: tensor for name, tensor in weights.items() if not name.endswith("position_ids")}
    return with_tied_head(kept)


def to_original(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Our names -> the original's; equal tensors that encoder and decoder share become one."""
    shared = dict(weights)
    for name, tensor in weights.items():
        twin = TIED_HEAD.get(name, name.replace("text_decoder.bert.", "text_encoder."))
        if twin != name and twin in shared and torch.equal(tensor, shared[twin]):
            shared[name] = shared[twin]
    return shared


def with_tied_head(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Fill in whichever name of a tied pair of the LM head is missing.

    Raises:
        ValueError: both are there and differ.
    """
    filled = dict(weights)
    for name, twin in TIED_HEAD.items():
        if name in weights and twin in weights and not torch.equal(weights[name], weights[twin]):
            raise ValueError(f"{name} differs from {twin}, to which the network ties it")
        for one, other in ((name, twin), (twin, name)):
            if one not in filled and other in filled:
                filled[one] = filled[other]
    return filled


def with_queue_names(
    weights: dict[str, torch.Tensor], *, with_ids: bool
) -> dict[str, torch.Tensor]:
    """Queues under the names of the objective that continues them.

    Args:
        weights: in our names, with queues.
        with_ids: retrieval fine-tuning (`ptr_queue`, `idx_queue`); else pretraining (`queue_ptr`).
            Entries whose picture is not known get an id that no picture has, and those of a
            pretraining are written over from the first on, as in the original.
    """
    kept = {k: v for k, v in weights.items() if k not in ("queue_ptr", "ptr_queue", "idx_queue")}
    pointer = weights.get("queue_ptr", weights.get("ptr_queue"))
    if pointer is None:
        return kept
    if not with_ids:
        return kept | {"queue_ptr": pointer}
    unknown = torch.full((1, weights["image_queue"].shape[1]), NO_IMAGE_ID, dtype=torch.long)
    begin = weights.get("ptr_queue", torch.zeros_like(pointer))
    return kept | {"ptr_queue": begin, "idx_queue": weights.get("idx_queue", unknown)}
