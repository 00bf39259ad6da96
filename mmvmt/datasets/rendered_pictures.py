"""Pictures that are rendered while they are asked for, with what can be said of them in words: for pretraining."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mmengine.dataset import Compose
from torch.utils.data import Dataset

from mmvmt.registry import DATASETS
from mmvmt.synthetic import render_attributes


@DATASETS.register_module()
class RenderedPictures(Dataset):
    """Pictures of one or a few objects, none of which lies on a disk or comes twice.

    A sample enters the pipeline with ``img``, ``(H, W, 3)`` uint8 BGR, ``img_shape``, ``ori_shape``, and ``gt_label``,
    the attributes of :func:`mmvmt.synthetic.render_attributes` by name, as ``mmpretrain.PackMultiTaskInputs`` takes
    them.

    Args:
        num_samples: Length of a pass. Picture ``n`` of the same seed is always the same.
        size: Side of the pictures in pixels, at least 32; or ``[(0, 80), (1000, 160)]``: 80 for the first 1000, 160
            from there on. With a sampler that keeps the order, and a multiple of the batch size, that is a schedule.
        seed: Non-negative integer. Pictures of different seeds have nothing in common.
        pipeline: Transforms.
        metainfo: Meta information.

    Raises:
        ValueError: ``num_samples`` is not positive, or no size is given for the first picture.
    """

    def __init__(
        self,
        num_samples: int,
        size: int | Sequence[tuple[int, int]] = 128,
        seed: int = 0,
        pipeline: Sequence[dict | Callable] = (),
        metainfo: dict[str, Any] | None = None,
    ) -> None:
        if num_samples < 1:
            raise ValueError(f'num_samples must be positive, got {num_samples}')
        self.num_samples, self.seed = num_samples, seed
        self.sizes = sorted([(0, size)] if isinstance(size, int) else map(tuple, size))
        if not self.sizes or self.sizes[0][0] != 0:
            raise ValueError(f'size must begin with the first picture, [(0, SIZE), ...], got {size}')
        self.pipeline = Compose(list(pipeline))
        self.metainfo = dict(metainfo or {})

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, idx: int) -> Any:
        """Render picture ``idx`` and run the pipeline on it."""
        size = next(size for start, size in reversed(self.sizes) if idx >= start)
        image, attributes = render_attributes((self.seed, int(idx)), size)
        shape = image.shape[:2]
        return self.pipeline(dict(img=image[..., ::-1].copy(), gt_label=attributes, img_shape=shape, ori_shape=shape))
