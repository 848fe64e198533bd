"""Attention with decomposed relative positions (Li et al., "MViTv2", CVPR 2022) in one fused kernel.

SAM's ViT adds ``q . R_h[y - y'] + q . R_w[x - x']`` to the score of query (y, x) and key (y', x'). Written out, this
is a tensor of heads x N x N values, which costs more time than the rest of the attention. Two ways around it:

- Appended: the sum over (y', x') is itself a scalar product, of the query's terms for all y' and all x' with a vector
  that is one at the key's y' and x' and zero elsewhere. Appending both to query and key leaves plain attention, at
  the price of wider heads. It needs no bias, so flash kernels apply, on any device, with gradients.
- Masked: the bias is written for a block of queries that stays in the processor's cache and handed on as a mask.
  Faster where the matrix products are the bottleneck (float32 on a CPU) and for short sequences; no gradients.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

_BLOCK_BYTES = 16 * 2**20
_SHORT = 1024


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
    on_cpu = q.device.type == "cpu"
    if on_cpu and not differentiable and (n_tokens < _SHORT or q.dtype == torch.float32):
        return _masked_attention(q, k, v, terms_y, terms_x)
    return _appended_attention(q, k, v, terms_y, terms_x)


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


def _masked_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, terms_y: torch.Tensor, terms_x: torch.Tensor
) -> torch.Tensor:
    batch, heads, n_tokens, dim = q.shape
    rows = max(1, _BLOCK_BYTES // (n_tokens * q.element_size()))
    step_b = max(1, rows // (heads * n_tokens))
    step_h = min(heads, max(1, rows // n_tokens))
    step_n = min(n_tokens, rows)
    out = q.new_empty(batch, n_tokens, heads, dim)
    mask = q.new_empty(min(step_b, batch) * step_h * step_n * n_tokens)
    for b in range(0, batch, step_b):
        for h in range(0, heads, step_h):
            for n in range(0, n_tokens, step_n):
                block = (slice(b, b + step_b), slice(h, h + step_h), slice(n, n + step_n))
                y, x = terms_y[block][..., None], terms_x[block][..., None, :]
                bias = mask[: y.numel() * x.shape[-1]].view(*y.shape[:-1], x.shape[-1])
                torch.add(y, x, out=bias)
                part = F.scaled_dot_product_attention(q[block], k[block[:2]], v[block[:2]], attn_mask=bias.flatten(-2))
                out[block[0], block[2], block[1]] = part.transpose(1, 2)
    return out.view(batch, n_tokens, heads * dim)
