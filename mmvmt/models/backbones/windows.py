"""Attention inside shifted windows (Liu et al., ICCV 2021, arXiv 2103.14030): where tokens stand among the windows, the
masks, and the attention over mmseg's parameters, with slots.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvmt.compat import is_exporting, is_recording

from .slots import Fills, Prompts, Size, Tails, fill


class _PermuteRows(torch.autograd.Function):
    """Rows in another order, each at most once: ``y[i] = x[there[i]]``, a row of zeros where ``there`` is ``len(x)``.

    The gradient is the same with ``back``, so nothing is added up and nothing but indices is kept.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, there: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(there, back)
        return _take_rows(x, there, len(back))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        there, back = ctx.saved_tensors
        return _take_rows(grad, back, len(there)), None, None


def _permute_rows(x: Tensor, there: Tensor, back: Tensor) -> Tensor:
    """``(M, C)`` in another order, see :class:`_PermuteRows`."""
    return _take_rows(x, there, len(back)) if torch.jit.is_tracing() else _PermuteRows.apply(x, there, back)


def _take_rows(x: Tensor, index: Tensor, rows: int) -> Tensor:
    """``x[index]`` for ``(M, C)``; with fewer than ``len(index)`` rows, the index ``len(x)`` is a row of zeros."""
    if len(index) > rows:
        x = F.pad(x, (0, 0, 0, 1))
    return x.index_select(0, index)


class Windows(NamedTuple):
    """Where the tokens of a batch stand among shifted windows.

    The order is (window, image, token): windows with the same mask stand together, whatever the number of images.

    Args:
        count: Windows of an image.
        to_windows: ``(count * B * N,)``, row of ``(B * H * W, C)`` for every place; ``B * H * W`` where it is padding.
        to_tokens: ``(B * H * W,)``, the inverse.
        kinds: What tells the groups of windows with one mask apart: 0 inside, 1 last column, 2 last row, 3 both.
        groups: Number of windows of each kind.
        masks: ``(1, 1, N, N)`` for each kind, or None where all tokens of a window are neighbours.
    """

    count: int
    to_windows: Tensor
    to_tokens: Tensor
    kinds: tuple[int, ...]
    groups: tuple[int, ...]
    masks: tuple[Tensor | None, ...]


def cut_windows(batch: int, hw: tuple[int, int], size: int, shift: int, device: torch.device) -> Windows:
    """Cut the padded and cyclically shifted map of every image into windows."""
    height, width = hw
    rows, columns = -(-height // size), -(-width // size)

    def coordinates(windows: int) -> tuple[Tensor, Tensor]:
        """For every place of a shifted axis where it comes from, and the region whose tokens are its neighbours."""
        place = torch.arange(windows * size, device=device)
        region = (
            (place >= (windows - 1) * size).long() + (place >= windows * size - shift).long() if shift else 0 * place
        )
        return (place + shift) % (windows * size), region

    (y, region_y), (x, region_x) = coordinates(rows), coordinates(columns)
    inside = (y < height).unsqueeze(1) & (x < width).unsqueeze(0)
    token = torch.where(inside, y.unsqueeze(1) * width + x.unsqueeze(0), -1)
    region = region_y.unsqueeze(1) * 3 + region_x.unsqueeze(0)

    def cut(grid: Tensor) -> Tensor:
        return grid.view(rows, size, columns, size).transpose(1, 2).reshape(rows * columns, size * size)

    token, region = cut(token), cut(region)
    kinds, groups, masks = (0,), (rows * columns,), (None,)
    if shift:
        # Only windows of the last row and column hold regions that were no neighbours before the shift.
        of_kind: dict[int, list[int]] = {kind: [] for kind in range(4)}
        for row in range(rows):
            for column in range(columns):
                of_kind[2 * (row == rows - 1) + (column == columns - 1)].append(row * columns + column)
        kinds = tuple(kind for kind, members in of_kind.items() if members)
        groups = tuple(len(of_kind[kind]) for kind in kinds)
        order = torch.tensor([window for kind in kinds for window in of_kind[kind]], device=device)
        neighbours = [region[of_kind[kind][0]] for kind in kinds]
        masks = tuple(
            torch.where(r.unsqueeze(0) == r.unsqueeze(1), 0.0, -100.0)[None, None] if kind else None
            for kind, r in zip(kinds, neighbours)
        )
        token = token[order]
    image = torch.arange(batch, device=device).view(1, batch, 1)
    total = batch * height * width
    to_windows = torch.where(token.unsqueeze(1) < 0, total, token.unsqueeze(1) + image * (height * width)).flatten()
    place = torch.arange(len(to_windows), device=device)
    to_tokens = to_windows.new_empty(total + 1).index_copy_(0, to_windows, place)[:total]
    return Windows(rows * columns, to_windows, to_tokens, kinds, groups, masks)


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, dropout: float, scale: float) -> Tensor:
    """``softmax(scale * q k^T + mask) v`` for ``(B, heads, N, C)``.

    On a CPU the kernel of PyTorch for half precision is slow with windows as small as here, its backward pass by a
    factor of 7 compared with plain operations. Their price is that the attention weights are kept for that pass.
    In a trace of ``torch.jit`` plain operations are what mmengine counts and what older exporters know.
    """
    slow = q.device.type == 'cpu' and q.dtype in (torch.bfloat16, torch.float16) and not is_exporting()
    if not slow and not torch.jit.is_tracing():
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=scale)
    weights = torch.add(mask, q @ k.transpose(-2, -1), alpha=scale).softmax(-1)
    if dropout:
        weights = F.dropout(weights, dropout)
    return weights @ v


class ShiftedWindowAttention(nn.Module):
    """Window attention over mmseg's parameters.

    Args:
        attn: mmseg's ``ShiftWindowMSA``, whose parameters are taken over.
    """

    def __init__(self, attn: nn.Module) -> None:
        super().__init__()
        self.w_msa = attn.w_msa
        self.window_size = attn.window_size
        self.shift_size = attn.shift_size
        self._windows_cache: tuple[tuple, Windows] | None = None
        self._mask_cache: tuple[tuple, tuple[Tensor, ...]] | None = None

    def forward(
        self, x: Tensor, hw: Size, fills: Fills, prompts: Prompts | None = None, tails: Tails | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """``(B, H*W, C)`` to ``(B, H*W, C)``, and the prompts' ``(B, P, C)`` where they are carried on."""
        w_msa, area = self.w_msa, self.window_size**2
        batch, width = int(x.shape[0]) if torch.jit.is_tracing() else x.shape[0], x.shape[2]
        windows = self.windows(batch, hw, x.device)
        x = _permute_rows(x.flatten(0, 1), windows.to_windows, windows.to_tokens)
        x = x.view(windows.count, batch, area, width)

        qkv = self._qkv(x, fills, self._window).flatten(0, 1)
        of_prompts, count, carry = None, 0, False
        if prompts is not None:
            count, carry = prompts.tokens.shape[1], prompts.carry
            # Prompts are projected once, not once per window.
            of_prompts = self._qkv(prompts.tokens.unsqueeze(0), fills).squeeze(0)
            of_prompts = of_prompts.repeat_interleave(batch // len(of_prompts), 0)
        masks = self.attention_masks(windows, qkv.dtype, count, carry)
        dropout = w_msa.attn_drop.p if self.training else 0.0
        outs, scores = [], [] if tails is not None and tails.method.wants_prompt_scores else None
        for part, mask in zip(qkv.split([group * batch for group in windows.groups]), masks):
            q, k, v = part.permute(2, 0, 3, 1, 4)
            if of_prompts is not None:
                q_p, k_p, v_p = of_prompts.repeat(len(part) // batch, 1, 1, 1, 1).permute(2, 0, 3, 1, 4)
                if scores is not None:
                    scores.append(q_p @ k.transpose(-2, -1))
                k, v = torch.cat((k_p, k), dim=2), torch.cat((v_p, v), dim=2)
                q = torch.cat((q_p, q), dim=2) if carry else q
            out = attention(q, k, v, mask, dropout, w_msa.scale)
            outs.append(out.transpose(1, 2).flatten(2))
        out = torch.cat(outs) if len(outs) > 1 else outs[0]
        out = out.unflatten(0, (windows.count, batch))
        out_prompts = None
        if carry:
            # Every window has its own outputs for the prompts; what goes on is their mean.
            of_windows, out = out[:, :, :count], out[:, :, count:]
            out_prompts = self._proj(of_windows.mean(0, keepdim=True), fills).squeeze(0)
        if scores:
            tails.scores = torch.cat(scores).unflatten(0, (windows.count, batch))
        return self.to_tokens(self._proj(out, fills, self._window, tails), hw), out_prompts

    def to_tokens(self, x: Tensor, hw: Size) -> Tensor:
        """``(windows, B, N, C)`` in the order of windows to ``(B, H*W, C)``."""
        windows = self.windows(x.shape[1], hw, x.device)
        tokens = _permute_rows(x.reshape(-1, x.shape[-1]), windows.to_tokens, windows.to_windows)
        return tokens.view(x.shape[1], -1, x.shape[-1])

    @property
    def _window(self) -> Size:
        return self.window_size, self.window_size

    def _qkv(self, x: Tensor, fills: Fills, hw: Size | None = None) -> Tensor:
        """``(windows, B, N, C)`` to queries, keys and values, ``(windows, B, N, 3, heads, C / heads)``."""
        qkv = fill(fills, 'qkv', x, self.w_msa.qkv(x), batch_dim=1, hw=hw)
        return qkv.unflatten(-1, (3, self.w_msa.num_heads, -1))

    def _proj(self, x: Tensor, fills: Fills, hw: Size | None = None, tails: Tails | None = None) -> Tensor:
        """``(windows, B, N, C)`` to ``(windows, B, N, C)``."""
        return self.drop(fill(fills, 'proj', x, self.w_msa.proj(x), batch_dim=1, hw=hw, tails=tails))

    def drop(self, out: Tensor) -> Tensor:
        """Dropout of what the projection puts out."""
        return self.w_msa.proj_drop(out) if self.w_msa.proj_drop.p else out

    def windows(self, batch: int, hw: tuple[int, int], device: torch.device) -> Windows:
        """The places of the tokens, kept for the last size."""
        key = (batch, hw, device)
        recording = is_recording()
        if recording or self._windows_cache is None or self._windows_cache[0] != key:
            with torch.inference_mode(False):
                windows = cut_windows(batch, hw, self.window_size, self.shift_size, device)
            if recording:
                return windows
            self._windows_cache = (key, windows)
        return self._windows_cache[1]

    def attention_masks(
        self, windows: Windows, dtype: torch.dtype, prompts: int = 0, carry: bool = False
    ) -> tuple[Tensor, ...]:
        """Relative position bias plus the mask of shifted windows; zero for prompts, which stand at no position.

        They are kept for the last size while nothing is trained through them. Loading the table renews them, and so
        does every change between training and evaluation, which covers averaged weights that are swapped in for an
        evaluation.

        Args:
            windows: The windows.
            dtype: Type of the queries.
            prompts: Number of prompts P in front of the keys.
            carry: Whether they stand in front of the queries too.

        Returns:
            For every group of windows ``(1, heads, N, P + N)``, with N = window area; with ``carry`` P + N instead of
            the first N. Their number depends neither on the number of images nor on that of windows.
        """
        table = self.w_msa.relative_position_bias_table
        # A table that stands in for the frozen one lives for one pass: its address says nothing of its values.
        cacheable = not is_recording() and isinstance(table, nn.Parameter)
        if cacheable and (torch.is_inference_mode_enabled() or table.is_inference()):
            cacheable = False
        if table.requires_grad and torch.is_grad_enabled():
            cacheable = False
        key = None
        if cacheable:
            key = (windows.kinds, dtype, prompts, carry, table.device, table.data_ptr(), table._version)
            if self._mask_cache is not None and self._mask_cache[0] == key:
                return self._mask_cache[1]
        area = self.window_size**2
        bias = table[self.w_msa.relative_position_index.view(-1)].view(area, area, -1).permute(2, 0, 1).unsqueeze(0)
        masks = []
        for shifted in windows.masks:
            mask = bias if shifted is None else bias + shifted
            if prompts:
                mask = F.pad(mask, (prompts, 0, prompts if carry else 0, 0))
            masks.append(mask.to(dtype).contiguous())
        kept = tuple(masks)
        if cacheable:
            self._mask_cache = (key, kept)
        return kept

    def train(self, mode: bool = True) -> ShiftedWindowAttention:
        """Set the mode and forget the masks."""
        self._mask_cache = None
        return super().train(mode)
