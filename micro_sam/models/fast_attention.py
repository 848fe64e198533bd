"""Attention as the encoders and the mask decoder need it, with the kernels that are fastest on the device.

SAM's ViT adds relative positions, decomposed (Li et al., "MViTv2", CVPR 2022), to its scores: ``q . R_h[y - y'] + q .
R_w[x - x']`` for query (y, x) and key (y', x'). Written out, this is a tensor of heads x N x N values, which costs more
time than the rest of the attention. Two ways around it:

- Appended: the sum over (y', x') is itself a scalar product, of the query's terms for all y' and all x' with a vector
  that is one at the key's y' and x' and zero elsewhere. Appending both to query and key leaves plain attention, at
  the price of wider heads. It needs no bias, so flash kernels apply, on any device, with gradients.
- By blocks: the bias is written for a block of queries that stays in the processor's cache. It is handed to the fused
  kernel as a mask; or, in bfloat16 on processors without matrix units (AMX), scores, softmax and sum are computed one
  after the other, since torch's fused kernel multiplies bfloat16 no faster than float32 there (3.2 times slower for a
  global layer of vit_b). Faster where the matrix products are the bottleneck and for short sequences; no gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch.nn import functional as F

from micro_sam.models.precision import cpu_has_matrix_units

_MASK_BYTES = 16 * 2**20
_SCORE_BYTES = 2 * 2**20
_SHORT = 1024

_Block = tuple[slice, slice, slice]


def relative_position_table(rel_pos: torch.Tensor, size: int) -> torch.Tensor:
    """Gather (size, size, head_dim): entry [i, j] is the embedding of the offset i - j.

    Args:
        rel_pos: (2 * size - 1, head_dim); another length is interpolated, as segment-anything does.
    """
    if rel_pos.shape[0] != 2 * size - 1:
        rel_pos = F.interpolate(rel_pos.T[None], 2 * size - 1, mode="linear")[0].T
    index = torch.arange(size, device=rel_pos.device)
    return rel_pos[index[:, None] - index[None] + size - 1]


def relative_position_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, table_y: torch.Tensor, table_x: torch.Tensor
) -> torch.Tensor:
    """Softmax attention over a grid of Y x X tokens with relative positions.

    Args:
        q, k, v: (B, heads, Y * X, head_dim), not scaled.
        table_y: (Y, Y, head_dim) from `relative_position_table`.
        table_x: (X, X, head_dim).

    Returns:
        (B, Y * X, heads * head_dim).
    """
    batch, heads, n_tokens, dim = q.shape
    grid = q.reshape(batch, heads, table_y.shape[0], table_x.shape[0], dim)
    terms_y = torch.einsum("bnyxc,ykc->bnyxk", grid, table_y).reshape(batch, heads, n_tokens, -1)
    terms_x = torch.einsum("bnyxc,xkc->bnyxk", grid, table_x).reshape(batch, heads, n_tokens, -1)
    differentiable = torch.is_grad_enabled() and any(t.requires_grad for t in (q, k, v, table_y, table_x))
    blocks_are_faster = n_tokens < _SHORT or q.dtype == torch.float32 or _is_stepwise(q)
    if differentiable or q.device.type != "cpu" or not blocks_are_faster:
        return _appended_attention(q, k, v, terms_y, terms_x)

    def write_bias(block: _Block, bias: torch.Tensor) -> None:
        y, x = terms_y[block][..., None], terms_x[block][..., None, :]
        torch.add(y, x, out=bias.unflatten(-1, (y.shape[-2], x.shape[-1])))

    return _attention_by_blocks(q, k, v, write_bias)


def biased_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Softmax attention with one bias for all windows; no gradients for the bias.

    Args:
        q, k, v: (windows, heads, N, head_dim), not scaled.
        bias: (1, heads, N, N).

    Returns:
        (windows, N, heads * head_dim).
    """
    if not _is_stepwise(q):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(2)
    return _attention_by_blocks(q, k, v, lambda block, part: part.copy_(bias[:, block[1], block[2]]))


def unscaled_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Softmax attention of few queries, whose scores are not divided by anything.

    Args:
        q: (B, n, C).
        k, v: (B, N, C).
        bias: (B, n, N), added to the scores.

    Returns:
        (B, n, C).
    """
    if not _is_stepwise(q):
        mask = None if bias is None else bias[:, None]
        return F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None], mask, scale=1.0)[:, 0]
    keys = k.transpose(1, 2)
    scores = torch.bmm(q, keys) if bias is None else torch.baddbmm(bias, q, keys)
    return torch.bmm(scores.softmax(-1), v)


def _is_stepwise(x: torch.Tensor) -> bool:
    """Whether products one after the other are faster than torch's fused kernel, where a tensor is and in its format."""
    return x.device.type == "cpu" and x.dtype == torch.bfloat16 and not cpu_has_matrix_units()


def _appended_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, terms_y: torch.Tensor, terms_x: torch.Tensor
) -> torch.Tensor:
    batch, heads, n_tokens, dim = q.shape
    n_y, n_x = terms_y.shape[-1], terms_x.shape[-1]
    fill = -(dim + n_y + n_x) % 8  # fused kernels on GPUs want multiples of 8
    one_hot = torch.eye(n_y, dtype=k.dtype, device=k.device).repeat_interleave(n_x, 0)
    one_hot = torch.cat([one_hot, torch.eye(n_x, dtype=k.dtype, device=k.device).repeat(n_y, 1)], 1)
    one_hot = F.pad(one_hot, (0, fill)).expand(batch, heads, n_tokens, -1)
    q = torch.cat([q * dim**-0.5, terms_y, F.pad(terms_x, (0, fill))], -1)
    k = torch.cat([k, one_hot], -1)
    v = F.pad(v, (0, n_y + n_x + fill))
    x = F.scaled_dot_product_attention(q, k, v, scale=1.0)[..., :dim]
    return x.transpose(1, 2).reshape(batch, n_tokens, heads * dim)


def _attention_by_blocks(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, write_bias: Callable[[_Block, torch.Tensor], object]
) -> torch.Tensor:
    """Attention from parts of the queries, whose bias (b, heads, n, N) is written where that of the last part was."""
    if _is_stepwise(q):
        attend, most, k, v = _attend_stepwise, _SCORE_BYTES, k.contiguous(), v.contiguous()
    else:
        attend, most = F.scaled_dot_product_attention, _MASK_BYTES
    batch, heads, n_tokens, dim = q.shape
    rows = min(q.shape[:3].numel(), max(1, most // (n_tokens * q.element_size())))
    memory = q.new_empty(rows * n_tokens)
    out = q.new_empty(batch, n_tokens, heads, dim)
    for block in _blocks(batch, heads, n_tokens, rows):
        part = q[block]
        bias = memory[: part.shape[:3].numel() * n_tokens].view(*part.shape[:3], n_tokens)
        write_bias(block, bias)
        out[block[0], block[2], block[1]] = attend(part, k[block[:2]], v[block[:2]], bias).transpose(1, 2)
    return out.view(batch, n_tokens, heads * dim)


def _blocks(batch: int, heads: int, n_tokens: int, rows: int) -> Iterator[_Block]:
    """Parts of (batch, heads, tokens) with at most so many rows: several images, or heads of one, or tokens of one head."""
    step_b = max(1, rows // (heads * n_tokens))
    step_h = min(heads, max(1, rows // n_tokens))
    step_n = min(n_tokens, rows)
    for b in range(0, batch, step_b):
        for h in range(0, heads, step_h):
            for n in range(0, n_tokens, step_n):
                yield slice(b, b + step_b), slice(h, h + step_h), slice(n, n + step_n)


def _attend_stepwise(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Attention without a fused kernel, (B, heads, n, dim); the bias (B, heads, n, N) is overwritten."""
    q = (q * q.shape[-1] ** -0.5).flatten(0, 1)
    scores = bias.flatten(0, 1).baddbmm_(q, k.flatten(0, 1).transpose(1, 2))
    return torch.bmm(scores.softmax(-1), v.flatten(0, 1)).view(*bias.shape[:-1], -1)
