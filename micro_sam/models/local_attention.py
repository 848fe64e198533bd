"""The two-way transformer of Segment Anything's mask decoder for many prompts on one image, on a CPU.

What happens to the few tokens of the prompts is computed for all prompts at once, what happens to the image's tokens for one
prompt after the other, so that they stay in the processor's cache. Projections act on the side of the prompts' tokens, see
`fast_mask_decoder`. In the first layer the image is the same for all prompts, except where a mask prompt changes it, and in
every layer their positions are: products with these are made for all prompts at once, too. Those with the shared image are
as Segment Anything writes them, with projections of the image, which pay with many prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from segment_anything.modeling.transformer import Attention, TwoWayAttentionBlock
from torch import nn
from torch.nn import functional as F

from micro_sam.models.fast_attention import unscaled_attention
from micro_sam.models.fast_layers import layer_norm
from micro_sam.models.fast_mask_decoder import _Layer, _TokensToImage, _Weights

#: For each prompt which image tokens a mask prompt changes, and their new values.
Changes = Sequence[tuple[torch.Tensor, torch.Tensor]]


class _Rows:
    """Tokens of several prompts, one below the other, and the rows that the heads of an attention make of them.

    Args:
        counts: How many tokens each prompt has.
    """

    def __init__(self, counts: Sequence[int]) -> None:
        self.total = sum(counts)
        self._ends = [0, *accumulate(counts)]

    def of(self, k: int, heads: int = 1) -> slice:
        """The rows of a prompt: its tokens, or those of all heads after `together`."""
        return slice(heads * self._ends[k], heads * self._ends[k + 1])

    def mask(self) -> torch.Tensor:
        """bool (total, total): whether two tokens belong to the same prompt."""
        owner = torch.cat([torch.full((b - a,), k) for k, (a, b) in enumerate(zip(self._ends, self._ends[1:]))])
        return owner[:, None] == owner[None]

    def together(self, x: torch.Tensor) -> torch.Tensor:
        """(heads, total, C) -> (heads * total, C), ordered by prompt, head, token."""
        return x.flatten(0, 1)[self._order(len(x))]

    def apart(self, x: torch.Tensor, heads: int) -> torch.Tensor:
        """(heads * total, C) -> (heads, total, C)."""
        result = torch.empty_like(x)
        result[self._order(heads)] = x
        return result.unflatten(0, (heads, -1))

    def _order(self, heads: int) -> torch.Tensor:
        index = torch.arange(heads * self.total).view(heads, -1)
        return torch.cat([index[:, a:b].flatten() for a, b in zip(self._ends, self._ends[1:])])


@dataclass(frozen=True)
class _Asked:
    """What the tokens of all prompts ask the image for: rows, and their products with the positions."""

    attention: _TokensToImage
    rows: _Rows
    query: torch.Tensor
    located: torch.Tensor

    @classmethod
    def of(cls, attention: _TokensToImage, rows: _Rows, tokens: torch.Tensor, position: torch.Tensor) -> _Asked:
        query = rows.together(attention.rows(tokens)).to(position.dtype)
        return cls(attention, rows, query, query @ position.T)

    def answer(self, images: Iterable[tuple[int, torch.Tensor]]) -> torch.Tensor:
        """What all tokens get (total, C), from the image tokens (N, C) of every prompt."""
        found = torch.cat([self._of_one(k, image) for k, image in images])
        return self.attention.finish(self.rows.apart(found.float(), self.attention.heads))

    def _of_one(self, k: int, image: torch.Tensor) -> torch.Tensor:
        part = self.rows.of(k, self.attention.heads)
        return unscaled_attention(self.query[None, part], image[None], image[None], self.located[None, part])[0]


def decode_tokens(
    weights: _Weights,
    image: torch.Tensor,
    position: torch.Tensor,
    prompts: torch.Tensor,
    counts: Sequence[int],
    changes: Changes,
    used: Sequence[int],
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Run the transformer, without the last norm.

    Args:
        weights: The decoder's.
        image: Tokens that all prompts share (N, C).
        position: Their positions (N, C).
        prompts: float32 (total, C), the tokens of all prompts, one below the other.
        counts: How many tokens each prompt has.
        changes: Where a prompt's image differs from the shared one; empty if it nowhere does.
        used: Which tokens of each prompt are wanted.

    Returns:
        The wanted tokens (n_prompts, n_used, C), and each prompt's image tokens (N, C).
    """
    rows, last = _Rows(counts), _Rows([len(used)] * len(counts))
    wanted = torch.tensor([rows.of(k).start + i for k in range(len(counts)) for i in used])
    mask = rows.mask() if len(counts) > 1 else None
    first, *others = weights.layers
    shared = _SharedLayer(first, rows, image, position, changes)
    tokens = _self_attended(first.block, prompts, prompts, mask)
    tokens = _after_image(first.block, tokens, shared.answer(tokens + prompts))
    update = shared.update(tokens + prompts, tokens)
    images = [image] * len(counts)
    for layer in others:
        tokens = _self_attended(layer.block, tokens, prompts, mask)
        asked = _Asked.of(layer.tokens_to_image, rows, tokens + prompts, position)
        answer = asked.answer(_updated(images, update))
        tokens = _after_image(layer.block, tokens, answer)
        update = _Update(layer, rows, tokens + prompts, tokens, position)
    tokens = tokens[wanted]
    asked = _Asked.of(weights.final, last, tokens + prompts[wanted], position)
    tokens = tokens + asked.answer(_updated(images, update))
    return tokens.unflatten(0, (len(counts), -1)), images


def _updated(
    images: list[torch.Tensor], update: Callable[[int, torch.Tensor], torch.Tensor]
) -> Iterator[tuple[int, torch.Tensor]]:
    """Update the images one after the other, and give out each while it lies in the cache."""
    for k, image in enumerate(images):
        images[k] = update(k, image)
        yield k, images[k]


class _Update:
    """The image attends to the tokens, in one layer: the queries' and the output projection act on the tokens."""

    def __init__(self, layer: _Layer, rows: _Rows, k: torch.Tensor, v: torch.Tensor, position: torch.Tensor) -> None:
        self._attention, self._norm, self._rows, dtype = layer.image_to_tokens, layer.block.norm4, rows, position.dtype
        keys, bias = self._attention.rows(k)
        self._keys = rows.together(keys).to(dtype)
        self._values = rows.together(self._attention.values(v)).to(dtype)
        self._scores = torch.addmm(rows.together(bias[..., None]).to(dtype), self._keys, position.T)

    def __call__(self, k: int, image: torch.Tensor) -> torch.Tensor:
        """The image tokens (N, C) of a prompt after this layer."""
        part = self._rows.of(k, self._attention.heads)
        scores = torch.addmm(self._scores[part], self._keys[part], image.T)
        weights = scores.unflatten(0, (self._attention.heads, -1)).softmax(1).flatten(0, 1)
        updated = torch.addmm(image, weights.T, self._values[part])
        return layer_norm(updated, self._norm, updated.dtype)


class _SharedLayer:
    """The first layer: the image's projections are made once for all prompts and corrected where a mask changes them.

    Args:
        layer: The layer.
        rows: The prompts' tokens.
        image: Image tokens that the prompts share (N, C).
        position: Their positions (N, C).
        changes: Which image tokens differ for a prompt, and their values.
    """

    def __init__(
        self, layer: _Layer, rows: _Rows, image: torch.Tensor, position: torch.Tensor, changes: Changes
    ) -> None:
        self._layer, self._rows, self._image, self._located = layer, rows, image, image + position
        self._changes = [(which, new, new + position[which]) for which, new in changes]

    def answer(self, q: torch.Tensor) -> torch.Tensor:
        """What all tokens get from the image (total, C)."""
        attention = self._layer.block.cross_attn_token_to_image
        heads, dtype = attention.num_heads, self._image.dtype
        q = _in_heads(attention.q_proj(q), heads)
        q = (q * q.shape[-1] ** -0.5).to(dtype)
        keys, values = (
            _in_heads(_project(linear, x), heads)
            for linear, x in ((attention.k_proj, self._located), (attention.v_proj, self._image))
        )
        scores = q @ keys.transpose(1, 2)
        self._correct(scores, q, attention.k_proj)
        weights = scores.softmax(-1)
        found = weights @ values
        for k, (which, new, _) in enumerate(self._changes):
            part = self._rows.of(k)
            other = _in_heads(_project(attention.v_proj, new), heads) - values[:, which]
            found[:, part] += weights[:, part].index_select(2, which) @ other
        return attention.out_proj(found.transpose(0, 1).flatten(1).float())

    def update(self, k: torch.Tensor, v: torch.Tensor) -> Callable[[int, torch.Tensor], torch.Tensor]:
        """The image attends to tokens k with values v (total, C): a function of the prompt's number, as `_Update`."""
        attention, norm, dtype = self._layer.image_to_tokens, self._layer.block.norm4, self._image.dtype
        heads, stock = attention.heads, attention.attention
        keys = _in_heads(stock.k_proj(k), heads)
        keys = (keys * keys.shape[-1] ** -0.5).to(dtype)
        scores = keys @ _in_heads(_project(stock.q_proj, self._located), heads).transpose(1, 2)
        self._correct(scores, keys, stock.q_proj)
        values = attention.values(v).to(dtype)

        def updated(k: int, image: torch.Tensor) -> torch.Tensor:
            part = self._rows.of(k)
            weights = scores[:, part].softmax(1).flatten(0, 1)
            image = torch.addmm(image, weights.T, values[:, part].flatten(0, 1))
            if self._changes:
                which, new, _ = self._changes[k]
                image.index_add_(0, which, new - self._image[which])
            return layer_norm(image, norm, dtype)

        return updated

    def _correct(self, scores: torch.Tensor, tokens: torch.Tensor, linear: nn.Linear) -> None:
        """Put the products with changed image tokens in the place of those with shared ones."""
        for k, (which, _, located) in enumerate(self._changes):
            part = self._rows.of(k)
            changed = _in_heads(_project(linear, located), len(tokens))
            scores[:, part].index_copy_(2, which, tokens[:, part] @ changed.transpose(1, 2))


def _in_heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    """(N, C) -> (heads, N, C / heads)."""
    return x.unflatten(-1, (heads, -1)).transpose(0, 1)


def _project(linear: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    return F.linear(x, linear.weight.to(x.dtype), linear.bias.to(x.dtype))


def _after_image(block: TwoWayAttentionBlock, tokens: torch.Tensor, answer: torch.Tensor) -> torch.Tensor:
    """What a layer does with the tokens after they have attended to the image."""
    tokens = block.norm2(tokens + answer)
    return block.norm3(tokens + block.mlp(tokens))


def _self_attended(
    block: TwoWayAttentionBlock, tokens: torch.Tensor, prompts: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    """The tokens of every prompt attend to each other, and the norm after it."""
    if block.skip_first_layer_pe:
        return block.norm1(_attended(block.self_attn, tokens, tokens, mask))
    return block.norm1(tokens + _attended(block.self_attn, tokens + prompts, tokens, mask))


def _attended(attention: Attention, q: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """``attention(q, q, v)`` among tokens (total, C) that a mask (total, total) allows to see each other."""
    q, k, v = (
        linear(x).unflatten(-1, (attention.num_heads, -1)).transpose(0, 1)[None]
        for linear, x in ((attention.q_proj, q), (attention.k_proj, q), (attention.v_proj, v))
    )
    return attention.out_proj(F.scaled_dot_product_attention(q, k, v, mask)[0].transpose(0, 1).flatten(1))
