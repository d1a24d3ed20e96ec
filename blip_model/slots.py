"""Captions of many pictures, as many at once as there are slots: who ends makes room for the next.

Which picture is where, and when, follows from the pictures alone; so do the captions.
"""

import math
from collections.abc import Callable, Hashable, Iterable, Iterator
from functools import partial
from weakref import WeakKeyDictionary

import torch

from blip_model.beams import Beams, Searched
from blip_model.blip import Blip
from blip_model.nucleus import Nucleus, Sampled
from blip_model.replayed import Replayed
from blip_model.text_cache import DecodingCache
from blip_model.waiting import Encoded, Line, Name
from kernels.transfer import sent, values_later

# Pictures enter together, for larger products, once this share of the slots is free.
ADMIT_AT = 0.125
# When none waits any more, copying the caches pays once a quarter of the slots is free.
COMPACT_AT = 0.75


@torch.no_grad()
def caption_groups(
    model: Blip,
    groups: Iterable[Encoded],
    how: Nucleus | Beams,
    slots: int,
    *,
    record: bool = True,
    meanwhile: Callable[[], None] = lambda: None,
) -> Iterator[torch.Tensor]:
    """Captions of groups of pictures, group by group in the order in which they come.

    Args:
        model: with a decoder, in eval mode.
        groups: none of them empty; asked for one as slots become free, so a little ahead of what
            was yielded.
        how: captions are made.
        slots: pictures at once.
        record: on a GPU, what is done for a token, and replay it; what was recorded is kept for
            the next call like it. Not worth it for few tokens and ever other sizes.
        meanwhile: called when pictures were let in, and a GPU has work for a while.

    Yields:
        [B, captions a picture, max_length] ids, prompt included, padded after [SEP].
    """
    if slots < 1:
        raise ValueError(f"{slots} slots hold no picture")
    line = Line(groups)
    name = _name(model, how, slots, line.first())
    held = _taken(model, name) or _Held(model, how, slots, record)
    while True:
        free = held.free
        enough = len(free) >= ADMIT_AT * len(held.names)
        if enough and (came := line.take(held.wanted(len(free)))):
            held.admit(free, *came)
            meanwhile()
        if held.running:
            for picture, rows in held.step(can_shrink=line.over):
                line.put(picture, rows)
        yield from line.whole()
        if line.over and not held.running:
            if record and held.cache.lengths.is_cuda:
                _HELD[model] = (name, held)
            return


# What a GPU's model has recorded last, for the next call like it. Nothing in it holds the model.
_HELD: "WeakKeyDictionary[Blip, tuple[Hashable, _Held]]" = WeakKeyDictionary()


def _name(model: Blip, how: Nucleus | Beams, slots: int, first: Encoded | None) -> Hashable:
    """Equal where the same would be recorded, of weights in the same places."""
    sizes = None
    if first is not None:
        sizes = first.states.shape[1:], first.states.dtype, first.prompt_ids.shape[1]
    kind = next(model.parameters()).device.type
    autocast = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind)
    places = tuple(parameter.data_ptr() for parameter in model.text_decoder.parameters())
    return how, slots, sizes, autocast, torch.is_inference_mode_enabled(), places


def _taken(model: Blip, name: Hashable) -> "_Held | None":
    """What was recorded under this name, which nobody else uses meanwhile."""
    kept, held = _HELD.pop(model, (None, None))
    if kept == name or held is None:
        return held
    # The allocator gives recordings' memory back only when it is asked to.
    del held
    torch.cuda.empty_cache()
    return None


class _Held:
    """The pictures in the slots, and everything about them that grows a token at a time.

    Args:
        model: with a decoder, in eval mode.
        how: captions are made.
        slots: S.
        record: on a GPU.

    Attributes:
        names: which picture each slot holds, or None.
    """

    def __init__(self, model: Blip, how: Nucleus | Beams, slots: int, record: bool = True) -> None:
        self.cache = DecodingCache(model, slots, how.rows, how.max_length)
        self.work = how.start(model.config, slots, self.cache.lengths.device)
        self.names: list[Name | None] = [None] * slots
        # As the host counts the cache's: it tells when nothing can end without asking a GPU.
        self._lengths = [0] * slots
        self._ahead = runs_ahead(self.cache.lengths.device)
        self._logits: torch.Tensor | None = None
        # Of the parts and not of this: a cycle would keep caches until somebody collects it.
        parts = (self.cache, self.work)
        self._enter = partial(_enter, self.cache)
        work = (self._enter, self._enter, partial(_next, *parts), partial(_follow, self.cache))
        self._fill, self._add, self._choose, self._extend = map(Replayed, work) if record else work
        # As many as there are slots come again and again, and where steps are replayed so many.
        self._some = math.ceil(ADMIT_AT * slots) if record and self._ahead else 0

    @property
    def free(self) -> list[int]:
        """Slots without a picture."""
        return [slot for slot, name in enumerate(self.names) if name is None]

    @property
    def running(self) -> int:
        """Pictures in work."""
        return len(self.names) - len(self.free)

    def wanted(self, free: int) -> int:
        """Pictures to let in where so many slots are free."""
        return min(free, self._some) if self._some and free < len(self.names) else free

    def admit(self, free: list[int], names: list[Name], pictures: Encoded) -> None:
        """Let pictures take the first of the free slots."""
        taken = free[: len(names)]
        slots = self._tensor(taken)
        for slot, name in zip(taken, names, strict=True):
            self.names[slot], self._lengths[slot] = name, pictures.prompt_ids.shape[1]
        self.work.begin(slots, pictures.prompt_ids, pictures.uniforms)
        came = (pictures.states, pictures.prompt_ids)
        if len(names) == len(self.names):
            (fresh,) = self._fill(None, *came)
        else:
            (fresh,) = (self._add if len(names) == self._some else self._enter)(slots, *came)
        shape = (len(self.names), self.cache.rows, fresh.shape[1])
        if self._logits is None:
            self._logits = fresh.new_zeros(shape).flatten(0, 1)
        self._logits.view(shape)[slots] = fresh[:, None]

    def step(self, can_shrink: bool) -> list[tuple[Name, torch.Tensor]]:
        """A token further.

        Args:
            can_shrink: slots that are free are of no more use.

        Returns:
            Pictures whose captions have ended, with these [captions a picture, max_length].
        """
        tokens, sources, ended = self._choose(self._logits)
        lengths, last = self._lengths_held(), self.work.how.max_length - 1
        if not self._ahead:
            ends = ended.tolist()
        else:
            # Asked only when somebody can have ended, and told the next token's work before.
            can_end = max(lengths) >= min(self.work.how.min_length, last)
            told = values_later(ended) if can_end else list
            if min(lengths) < last:
                self._go_on(tokens, sources)
            ends = told()
        over = [slot for slot, end in enumerate(ends) if end and self.names[slot] is not None]
        done = [self.names[slot] for slot in over]
        rows = self.work.result(self._tensor(over)) if over else ()
        for slot in over:
            self.names[slot] = None
        if self.running and not self._ahead:
            if can_shrink and self.running <= COMPACT_AT * len(self.names):
                tokens, sources = self._shrink(tokens, sources)
            self._go_on(tokens, sources)
        return list(zip(done, rows, strict=True))

    def _go_on(self, tokens: torch.Tensor, sources: torch.Tensor | None) -> None:
        """Logits of the next tokens."""
        (self._logits,) = self._extend(tokens, sources)
        self._lengths = [length + 1 for length in self._lengths]

    def _lengths_held(self) -> list[int]:
        pairs = zip(self.names, self._lengths, strict=True)
        return [length for name, length in pairs if name is not None]

    def _shrink(
        self, tokens: torch.Tensor, sources: torch.Tensor | None
    ) -> tuple[torch.Tensor, None]:
        """Drop free slots; the tokens of the others, whose rows then go on from themselves."""
        if sources is not None:
            self.cache.reorder(sources)
        kept = [slot for slot, name in enumerate(self.names) if name is not None]
        slots = self._tensor(kept)
        self.cache.keep(slots)
        self.work.keep(slots)
        tokens = tokens.view(len(self.names), -1)[slots].flatten()
        self.names = [self.names[slot] for slot in kept]
        self._lengths = [self._lengths[slot] for slot in kept]
        return tokens, None

    def _tensor(self, slots: list[int]) -> torch.Tensor:
        return sent(torch.tensor(slots), self.cache.lengths.device)


def runs_ahead(device: torch.device) -> bool:
    """Whether the next token's work is begun before the host knows who ended.

    A GPU would stand still meanwhile. It replays the work of all slots faster than it is told of
    another number, so slots are not dropped there either.
    """
    return device.type == "cuda"


def _enter(
    cache: DecodingCache,
    slots: torch.Tensor | None,
    image_states: torch.Tensor,
    prompt_ids: torch.Tensor,
) -> tuple[torch.Tensor]:
    """Logits after the prompts of pictures that take slots, None for all of them."""
    return (cache.admit(slots, image_states, prompt_ids),)


def _next(
    cache: DecodingCache, work: Sampled | Searched, logits: torch.Tensor
) -> tuple[torch.Tensor | None, ...]:
    """The next tokens, see `choose`."""
    return work.choose(logits, cache.places)


def _follow(
    cache: DecodingCache, tokens: torch.Tensor, sources: torch.Tensor | None
) -> tuple[torch.Tensor]:
    """Logits after these tokens [S * R] of rows that go on from others, or from themselves."""
    if sources is not None:
        cache.reorder(sources)
    return (cache.extend(tokens),)
