"""A tiny encoder, model and batch that every test can afford."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mmengine.structures import PixelData

from mmvmt.models import AdaptedEncoder, AdaptedSwin, MultiTaskEncoderDecoder
from mmvmt.registry import MODELS
from mmvmt.structures import TASKS, MultiTaskDataSample

SWIN: dict[str, Any] = dict(
    embed_dims=8, depths=(1, 2, 1, 1), num_heads=(1, 2, 2, 4), window_size=4, mlp_ratio=2, drop_path_rate=0.0
)
FOUR_TASKS = ('semseg', 'human_parts', 'saliency', 'normals')
VMT = dict(cfg=dict(type='mmvmt.VMTAdapter', reduction=2))
OUTPUTS: dict[str, dict[str, Any]] = dict(
    semseg=dict(type='mmvmt.ClassesOutput', num_classes=5),
    human_parts=dict(type='mmvmt.ClassesOutput', num_classes=7),
    saliency=dict(type='mmvmt.ProbabilityOutput'),
    normals=dict(type='mmvmt.UnitVectorOutput'),
    edge=dict(type='mmvmt.ProbabilityOutput', loss=dict(type='mmvmt.WeightedBCELoss', positive_weight=0.95)),
    depth=dict(type='mmvmt.DepthOutput'),
)
CLASSES = dict(semseg=5, human_parts=7)


@contextmanager
def undrawn() -> Iterator[None]:
    """Weights are what memory held: drawing those of a model of full size takes longer than all else in counting it."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ('uniform_', 'normal_', 'erfinv_'):
            patch.setattr(torch.Tensor, name, lambda tensor, *args, **kwargs: tensor)
        yield


def perturb(module: torch.nn.Module, seed: int = 0, std: float = 0.2) -> None:
    """Move every parameter away from special values such as zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * std)


def tiny_swin(
    tasks: Sequence[str] | None = FOUR_TASKS, plugins: Sequence[dict] | None = (VMT,), **kwargs: Any
) -> AdaptedSwin:
    """A small AdaptedSwin with random weights in evaluation mode."""
    return tiny_encoder(dict(type='mmvmt.AdaptedSwin', **SWIN), tasks, plugins, **kwargs)


def tiny_encoder(
    cfg: dict[str, Any],
    tasks: Sequence[str] | None = FOUR_TASKS,
    plugins: Sequence[dict] | None = (VMT,),
    **kwargs: Any,
) -> AdaptedEncoder:
    """A small encoder with random weights in evaluation mode."""
    torch.manual_seed(0)
    encoder = MODELS.build(dict(cfg, tasks=tasks, plugins=plugins) | kwargs)
    perturb(encoder)
    return encoder.eval()


def model_cfg(
    tasks: Sequence[str] = FOUR_TASKS,
    plugins: Sequence[dict] | None = (VMT,),
    encoder: dict[str, Any] | None = None,
    **kwargs: Any,
) -> dict[str, Any]:
    """Config of a small multi-task model, by default over Swin; its norms do not depend on the batch.

    Tasks may be declarations, whose heads have the outputs that they declare.
    """
    head = dict(type='mmvmt.MLPHead', channels=8, norm_cfg=dict(type='GN', num_groups=2))
    heads = {task: dict(head, output=OUTPUTS.get(task, {})) for task in tasks}
    if isinstance(tasks, Mapping):
        kwargs['tasks'] = tasks
    return dict(
        type='mmvmt.MultiTaskEncoderDecoder',
        data_preprocessor=dict(type='mmvmt.MultiTaskDataPreProcessor'),
        backbone=dict(encoder or dict(type='mmvmt.AdaptedSwin', **SWIN), plugins=plugins),
        heads=heads,
        **kwargs,
    )


def tiny_model(*args: Any, seed: int = 0, **kwargs: Any) -> MultiTaskEncoderDecoder:
    """A small multi-task model with random weights in evaluation mode."""
    torch.manual_seed(seed)
    model = MODELS.build(model_cfg(*args, **kwargs))
    perturb(model, seed)
    return model.eval()


def label_map(task: str, height: int, width: int, generator: torch.Generator) -> torch.Tensor:
    """A random label map of a task, some of its pixels unknown."""
    kind, channels = TASKS[task].kind, TASKS[task].channels
    known = torch.rand(1, height, width, generator=generator) > 0.2
    if kind == 'vectors':
        return F.normalize(torch.randn(channels, height, width, generator=generator), dim=0) * known
    if kind == 'values':
        return torch.where(known, torch.randn(channels, height, width, generator=generator), torch.nan)
    if kind == 'metric':
        return (torch.rand(1, height, width, generator=generator) + 0.5) * known
    classes = CLASSES.get(task) or len(TASKS[task].classes or (0, 1))
    labels = torch.randint(0, classes, (1, height, width), generator=generator)
    dtype = torch.uint8 if TASKS[task].ignore == 255 else torch.int32
    return torch.where(known, labels, TASKS[task].ignore).to(dtype)


def batch(
    tasks: Sequence[str] = FOUR_TASKS, sizes: Sequence[tuple[int, int]] = ((64, 64), (64, 64)), seed: int = 0
) -> dict[str, Any]:
    """A batch as the data loader gives it."""
    generator = torch.Generator().manual_seed(seed)
    inputs, samples = [], []
    for index, (height, width) in enumerate(sizes):
        inputs.append(torch.randint(0, 256, (3, height, width), generator=generator).to(torch.uint8))
        meta = dict(img_id=f'image_{index}', ori_shape=(height, width), img_shape=(height, width))
        sample = MultiTaskDataSample(metainfo=meta)
        sample.gt = PixelData(**{task: label_map(task, height, width, generator) for task in tasks})
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)


def losses_of(model: MultiTaskEncoderDecoder, data: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Losses of a batch."""
    return model(**model.data_preprocessor(data, True), mode='loss')


GN = dict(type='GN', num_groups=2)
UPER = dict(type='UPerHead', channels=8, in_index=[0, 1, 2, 3], pool_scales=(1, 2), norm_cfg=GN)
FCN = dict(type='FCNHead', channels=8, in_index=2, num_convs=1, norm_cfg=GN)


def segmentor_head(task: str, decode_head: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
    """Config of a decode head of mmseg as the head of a task."""
    return dict(type='mmvmt.SegmentorHead', output=OUTPUTS[task], decode_head=decode_head, **kwargs)


def mmseg_heads_cfg(**kwargs: Any) -> dict[str, Any]:
    """Config of a small model with two heads of mmseg: UPerHead for semseg, FCNHead for normals."""
    cfg = model_cfg(('semseg', 'normals'), **kwargs)
    cfg['heads'] = dict(semseg=segmentor_head('semseg', UPER), normals=segmentor_head('normals', FCN))
    return cfg
