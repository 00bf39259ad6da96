"""mmsegmentation's own configs, small enough for a test: a folder of ADE20K's layout, an encoder file, overrides."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import mmseg
import numpy as np
import torch
from mmseg.models.backbones.swin import SwinTransformer
from tiny import SWIN, perturb

MIM = Path(mmseg.__file__).parent / '.mim'
UPERNET = 'swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py'
WIDTHS = [SWIN['embed_dims'] * 2**stage for stage in range(4)]
ENCODER = {key: list(value) if isinstance(value, tuple) else value for key, value in SWIN.items()}

# A user's config: what mmsegmentation ships, and the three lines.
THREE_LINES = """
_base_ = {base!r}
custom_imports = dict(imports=['mmvmt'])
model = dict(backbone=dict(type='mmvmt.AdaptedSwin', plugins={plugins!r}))
"""

SMALL = """
_base_ = {base!r}
model = dict(
    data_preprocessor=dict(size=(32, 32)),
    backbone=dict(
        init_cfg=dict(type='Pretrained', checkpoint={checkpoint!r}),
        **{encoder!r},
    ),
    {heads}
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='RandomCrop', crop_size=(32, 32)),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(48, 40), keep_ratio=True),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='PackSegInputs'),
]
loader = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(batch_size=2, dataset=dict(data_root={data_root!r}, pipeline=train_pipeline), **loader)
val_dataloader = dict(dataset=dict(data_root={data_root!r}, pipeline=test_pipeline), **loader)
test_dataloader = val_dataloader
train_cfg = dict(max_iters=2, val_interval=100)
param_scheduler = [dict(type='PolyLR', eta_min=0.0, power=1.0, begin=0, end=10, by_epoch=False)]
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=2))
randomness = dict(seed=0)
"""

HEADS = {
    'upernet': f"""decode_head=dict(in_channels={WIDTHS}, channels=8, num_classes=150),
    auxiliary_head=dict(in_channels={WIDTHS[2]}, channels=8, num_classes=150),""",
    'segformer': f'decode_head=dict(in_channels={WIDTHS}, channels=8),',
    'ocrnet': f"""decode_head=[
        dict(
            type='FCNHead', in_channels={WIDTHS}, in_index=(0, 1, 2, 3), input_transform='resize_concat', channels=8,
            kernel_size=1, num_convs=1, concat_input=False, num_classes=150,
        ),
        dict(
            type='OCRHead', in_channels={WIDTHS}, in_index=(0, 1, 2, 3), input_transform='resize_concat', channels=8,
            ocr_channels=4, num_classes=150,
        ),
    ],""",
    'pointrend': f"""neck=dict(in_channels={WIDTHS}, out_channels=8),
    decode_head=[
        dict(
            type='FPNHead', in_channels=[8, 8, 8, 8], in_index=[0, 1, 2, 3], feature_strides=[4, 8, 16, 32], channels=8,
            num_classes=150,
        ),
        dict(
            type='PointHead', in_channels=[8], in_index=[0], channels=8, num_fcs=1, coarse_pred_each_layer=True,
            num_classes=150,
        ),
    ],
    train_cfg=dict(num_points=32),""",
}
"""What each of mmsegmentation's models needs besides, to fit the small encoder."""


def write_ade_folder(root: Path, training: int = 4, validation: int = 2) -> Path:
    """Write pictures and annotations as ADE20K has them: 0 unlabelled, 1 to 150 the classes."""
    generator = np.random.default_rng(0)
    for split, number in (('training', training), ('validation', validation)):
        for kind in ('images', 'annotations'):
            (root / kind / split).mkdir(parents=True)
        for index in range(number):
            classes = np.kron(generator.integers(0, 151, (4, 6)), np.ones((10, 8))).astype(np.uint8)
            image = np.stack([classes, 255 - classes, classes // 2], axis=-1)
            cv2.imwrite(str(root / 'images' / split / f'ADE_{index:08d}.jpg'), image)
            cv2.imwrite(str(root / 'annotations' / split / f'ADE_{index:08d}.png'), classes)
    return root


def write_encoder(path: Path) -> dict[str, torch.Tensor]:
    """Write random weights of a small Swin Transformer as mmsegmentation publishes them, and return them."""
    torch.manual_seed(5)
    swin = SwinTransformer(**SWIN)
    perturb(swin, seed=5)
    weights = {name: value for name, value in swin.state_dict().items() if not name.startswith('norm')}
    torch.save(dict(state_dict=weights), path)
    return weights


def three_lines(path: Path, base: str | Path, plugins: Iterable[dict[str, Any]]) -> Path:
    """Write a user's config: a base and the three lines."""
    path.write_text(THREE_LINES.format(base=str(base), plugins=list(plugins)))
    return path


def small(path: Path, base: Path, kind: str, data_root: Path, checkpoint: Path) -> Path:
    """Write a small version of a config.

    Args:
        path: Where.
        base: The config.
        kind: A key of :data:`HEADS`.
        data_root: Folder of ADE20K's layout.
        checkpoint: Encoder weights.
    """
    text = SMALL.format(
        base=str(base), checkpoint=str(checkpoint), encoder=ENCODER, heads=HEADS[kind], data_root=str(data_root)
    )
    path.write_text(text)
    return path
