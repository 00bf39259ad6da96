"""Pictures that are rendered while they are asked for, with what can be said of them in words: for pretraining."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from mmvmt.registry import DATASETS
from mmvmt.synthetic import ATTRIBUTES, render_attributes

_SINGLE = [name for name in ATTRIBUTES if name != 'presence']


@DATASETS.register_module()
class RenderedPictures(Dataset):
    """Pictures of one or a few objects, none of which lies on a disk or comes twice.

    A sample holds tensors only, so that batches are stacked where they are rendered: ``inputs``, ``(3, H, W)`` uint8
    RGB; ``attributes``, int64, the value of each of :data:`mmvmt.synthetic.ATTRIBUTES` but ``presence``, in their
    order, -1 for what the picture has no value of; and ``presence``, float32, 1 for each class that is there.

    Args:
        num_samples: Length of a pass. Picture ``n`` of the same seed is always the same.
        size: Side of the pictures in pixels, at least 32; of several sizes each holds for ``batch_size`` pictures in a
            row, in turn.
        batch_size: Pictures of one size that follow each other. A sampler that keeps the order makes batches of them.
        seed: Non-negative integer. Pictures of different seeds have nothing in common.
        metainfo: Meta information.

    Raises:
        ValueError: ``num_samples`` or ``batch_size`` is not positive, or there is no size.
    """

    def __init__(
        self,
        num_samples: int,
        size: int | Sequence[int] = 160,
        batch_size: int = 1,
        seed: int = 0,
        metainfo: dict[str, Any] | None = None,
    ) -> None:
        if num_samples < 1 or batch_size < 1:
            raise ValueError(f'num_samples and batch_size must be positive, got {num_samples} and {batch_size}')
        self.sizes = [size] if isinstance(size, int) else list(size)
        if not self.sizes:
            raise ValueError('size must be a number of pixels, or several, got none')
        self.num_samples, self.batch_size, self.seed = num_samples, batch_size, seed
        self.metainfo = dict(attributes=ATTRIBUTES, **(metainfo or {}))

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, idx: int) -> dict[str, Tensor]:
        """Render picture ``idx``."""
        size = self.sizes[int(idx) // self.batch_size % len(self.sizes)]
        image, found = render_attributes((self.seed, int(idx)), size)
        presence = torch.zeros(ATTRIBUTES['presence'])
        presence[found.get('presence', [])] = 1
        return dict(
            inputs=torch.from_numpy(image).permute(2, 0, 1).contiguous(),
            attributes=torch.tensor([found.get(name, -1) for name in _SINGLE]),
            presence=presence,
        )
