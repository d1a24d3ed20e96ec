"""Where the new tokens of rows stand and what each sees: one for all layers of a network."""

import torch


class Places:
    """Places of new tokens, and what the definition makes of them, made for the first layer.

    Args:
        at: [N] int64 below T, where the new token of each row stands.
        origins: [N, T] int64, the row in which the token at a place of a row is kept: beams that
            go on from others share what is before, and nothing is copied. A new token's is its own
            row, and rows that share stand at the same place. None where rows keep all of theirs.
    """

    def __init__(self, at: torch.Tensor, origins: torch.Tensor | None = None) -> None:
        self.at, self.origins = at, origins
        self._made: dict[tuple[int, ...], tuple[torch.Tensor, ...]] = {}

    def rows_and_mask(
        self, heads: int, length: int
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """Of caches [N, H, T, K] as rows of one head of one token, [N * H * T, K].

        Args:
            heads: H.
            length: T.

        Returns:
            [N * H], those of the new tokens; [N * H * T], those that a row and head attends to, in
            their order, None where they are its own; float32 [N * H, 1, T] to be added to scores.
        """
        made = self._made.get((heads, length))
        if made is None:
            made = self._made[heads, length] = self._make(heads, length)
        return made

    def _make(
        self, heads: int, length: int
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        at, device = self.at, self.at.device
        tokens = torch.arange(length, device=device)
        of_heads = torch.arange(len(at) * heads, device=device).view(-1, heads)
        new = of_heads * length + at[:, None]
        seen = None
        if self.origins is not None:
            seen = (of_heads[self.origins].transpose(1, 2) * length + tokens).flatten()
        mask = torch.where(tokens <= at[:, None], 0.0, float("-inf"))
        mask = mask[:, None].expand(-1, heads, -1).reshape(-1, 1, length)
        return new.flatten(), seen, mask
