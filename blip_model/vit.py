"""The image encoder: a plain vision transformer (Dosovitskiy et al. 2020, arXiv:2010.11929)."""

from collections.abc import Iterable
from functools import partial

import torch
from torch import nn

from blip_model.config import BlipConfig
from blip_model.layers import AddLayerNorm, Linear, MlpOutput, for_products
from blip_model.positions import resize_positions
from blip_model.recompute import run_layer
from kernels import attention, attention_joined, linear, picture_tokens
from kernels.copies import multiplied


class PatchProjection(nn.Conv2d):
    """A convolution whose steps are as wide as its kernel, as the one product that it is.

    [B, 3, H, W] -> [B, P, D]. A GPU's library takes long for such convolutions, and may round
    float32 numbers in them.
    """

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return linear(self.patches(image), self.weight, self.bias)

    def patches(self, image: torch.Tensor) -> torch.Tensor:
        """[B, 3, H, W] -> [B, P, 3 high wide], in the dtype of products: as kept, or made."""
        if not torch.compiler.is_compiling():
            kind, kept = getattr(image, "patches", (None, None))
            if kept is not None and kind == self._kind(image):
                return kept
        high, wide = self.kernel_size
        rows, columns = image.shape[2] // high, image.shape[3] // wide
        cut = image[:, :, : rows * high, : columns * wide]
        cut = cut.unflatten(3, (columns, wide)).unflatten(2, (rows, high))
        return for_products(cut).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)

    def keep_patches(self, image: torch.Tensor) -> None:
        """Have every encoder find these patches, as long as the picture lives and is not changed.

        Not of a video, nor where pictures train, nor in a compiled program, whose reads make them.
        """
        if torch.compiler.is_compiling() or image.ndim != 4:
            return
        if not (image.requires_grad or image.is_inference()):
            image.patches = (self._kind(image), self.patches(image))

    def _kind(self, image: torch.Tensor) -> tuple[object, ...]:
        """What patches depend on beside the picture, and how often that was changed."""
        device = image.device.type
        cast = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
        return self.kernel_size, cast, image._version


class PatchEmbed(nn.Module):
    """Cuts a picture into patches and projects each: [B, 3, H, W] -> [B, P, D]."""

    def __init__(self, config: BlipConfig) -> None:
        super().__init__()
        size = config.patch_size
        self.proj = PatchProjection(3, config.vision_width, kernel_size=size, stride=size)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.proj(image)


class VisionAttention(nn.Module):
    """Multi-head self-attention with one projection for query, key and value.

    Attributes:
        backend: of `kernels.attention_joined`, for all of them.
    """

    backend = "auto"

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(width, 3 * width)
        self.proj = Linear(width, width)

    def forward(self, x_BPD: torch.Tensor) -> torch.Tensor:
        return self.proj(attention_joined(self.qkv(x_BPD), self.heads, backend=self.backend))

    def first(self, x_BPD: torch.Tensor) -> torch.Tensor:
        """Row 0 of the result, [B, 1, D]: queries of the other rows are not projected.

        Slices the weight, so it is for networks that no ZeRO stage partitions.
        """
        width = x_BPD.shape[2]
        weight, bias = multiplied(self.qkv.weight, self.qkv.bias)
        query = nn.functional.linear(x_BPD[:, :1], weight[:width], bias[:width])
        query = query.unflatten(2, (self.heads, -1)).transpose(1, 2)
        both = nn.functional.linear(x_BPD, weight[width:], bias[width:])
        # Unbound before they are turned: their gradients are joined by one copy.
        parts = both.unflatten(2, (2, self.heads, -1)).unbind(2)
        key, value = (part.transpose(1, 2) for part in parts)
        return self.proj(attention(query, key, value).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two linear maps with the exact GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = MlpOutput(hidden, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(x, self.fc1)


class DropPath(nn.Module):
    """Leaves the residual branch of a sample out with some probability (arXiv:1603.09382)."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, branch: torch.Tensor) -> torch.Tensor:
        if not self.training or self.probability == 0.0:
            return branch
        keep = 1.0 - self.probability
        shape = (len(branch),) + (1,) * (branch.ndim - 1)
        return branch * branch.new_empty(shape).bernoulli_(keep).div_(keep)


class VisionBlock(nn.Module):
    """Pre-norm transformer block.

    What a block adds to the stream is handed on beside it: the next norm adds it while it reads.
    """

    def __init__(self, config: BlipConfig, drop_path: float) -> None:
        super().__init__()
        width = config.vision_width
        self.norm1 = AddLayerNorm(width, 1e-6, feeds_product=True)
        self.attn = VisionAttention(width, config.vision_heads)
        self.norm2 = AddLayerNorm(width, 1e-6, feeds_product=True, residual_is_kept=True)
        self.mlp = Mlp(width, 4 * width)
        self.drop_path = DropPath(drop_path)

    def forward(
        self, x_BPD: torch.Tensor, branch_BPD: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The stream and what is to be added to it, in and out; nothing before the first block."""
        x_BPD, normed_BPD = self.norm1(x_BPD, branch_BPD)
        x_BPD, normed_BPD = self.norm2(x_BPD, self.drop_path(self.attn(normed_BPD)))
        return x_BPD, self.drop_path(self.mlp(normed_BPD))

    def first(
        self, x_BPD: torch.Tensor, branch_BPD: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Row 0 of the result, [B, 1, D] each."""
        x_BPD, normed_BPD = self.norm1(x_BPD, branch_BPD)
        branch = self.drop_path(self.attn.first(normed_BPD))
        first, normed = self.norm2(x_BPD[:, :1], branch)
        return first, self.drop_path(self.mlp(normed))


class VisionTransformer(nn.Module):
    """Picture to token states, CLS first; the final norm is applied to all tokens.

    Drop path grows linearly over depth to the config's value. Weights start as in the original:
    truncated normal, of deviation 0.02 for embeddings and the config's for the rest, biases 0.

    Attributes:
        recompute: blocks run again in the backward pass, see `recompute`.
        sizes: sides of the pictures that it takes beside the config's, in pixels; their position
            embeddings are the config's, resized.
    """

    def __init__(self, config: BlipConfig) -> None:
        super().__init__()
        width, depth = config.vision_width, config.vision_layers
        self.image_size = config.image_size
        self.patch_embed = PatchEmbed(config)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, config.image_tokens, width))
        rates = torch.linspace(0, config.vision_drop_path, depth, device="cpu").tolist()
        self.blocks = nn.ModuleList([VisionBlock(config, rate) for rate in rates])
        self.norm = AddLayerNorm(width, 1e-6)
        self.recompute = False
        self.sizes: frozenset[int] = frozenset()
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        self.apply(partial(_initialise, std=config.initial_std))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """[B, 3, image_size, image_size] -> [B, P, D].

        Of videos, [B, F, 3, image_size, image_size] -> [B, F P, D]: the tokens of one frame after
        those of the other (Li et al. 2022, arXiv:2201.12086, section 5.6).

        Raises:
            ValueError: pictures of another size than the config's and those of `sizes`.
        """
        of_video = image.shape[:2] if image.ndim == 5 else None
        image = image if of_video is None else image.flatten(0, 1)
        side = image.shape[-1] if image.shape[-1] in self.sizes else self.image_size
        if image.ndim != 4 or image.shape[1:] != (3, side, side):
            wanted = f"[B, 3, {self.image_size}, {self.image_size}]"
            raise ValueError(f"image is {list(image.shape)}, the network takes {wanted}")
        x_BPD, branch_BPD = self._tokens(image), None
        for block in self.blocks:
            x_BPD, branch_BPD = run_layer(block, x_BPD, branch_BPD, recompute=self.recompute)
        x_BPD = self.norm(x_BPD, branch_BPD)[1]
        return x_BPD if of_video is None else x_BPD.unflatten(0, of_video).flatten(1, 2)

    def _tokens(self, image: torch.Tensor) -> torch.Tensor:
        patches = self.patch_embed(image)
        positions = resize_positions(self.pos_embed, 1 + patches.shape[1])
        return picture_tokens(self.cls_token, patches, positions)

    def first_state(self, image: torch.Tensor) -> torch.Tensor:
        """What `forward(image)[:, 0]` is, [B, D], without the rows of the last block not read.

        Of videos the mean over frames, from which an affine map makes the mean of its results.
        """
        if image.ndim == 5:
            return self.first_state(image.flatten(0, 1)).unflatten(0, image.shape[:2]).mean(1)
        x_BPD, branch_BPD = self._tokens(image), None
        for block in self.blocks[:-1]:
            x_BPD, branch_BPD = block(x_BPD, branch_BPD)
        return self.norm(*self.blocks[-1].first(x_BPD, branch_BPD))[1][:, 0]


def accept_sizes(module: nn.Module | None, sizes: Iterable[int]) -> None:
    """Let the image encoders of a module take pictures of these sides too, in pixels."""
    for part in module.modules() if module is not None else ():
        if isinstance(part, VisionTransformer):
            part.sizes = frozenset(sizes)


def _initialise(module: nn.Module, std: float) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=std)
        nn.init.zeros_(module.bias)
