"""A folder of a user's own: pictures and label maps of three tasks that the package does not know."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.io import savemat

TASKS: dict[str, dict[str, Any]] = dict(
    crops=dict(kind='classes', classes=['soil', 'wheat', 'maize']),
    lanes=dict(kind='binary'),
    albedo=dict(kind='values', channels=3),
)
LABELS: dict[str, Any] = dict(
    crops=['crops/checked/{id}.png', 'crops/raw/{id}.png'],
    lanes=dict(path='lanes/{id}_mask.png', missing='ignore'),
    albedo=dict(path='albedo/{id}.npz', key='albedo', scale=1 / 100, missing='ignore'),
)


@dataclass
class OwnFolder:
    """A folder on disk, and the maps that were written into it, at the size of the pictures."""

    root: Path
    ids: list[str] = field(default_factory=list)
    maps: dict[str, dict[str, np.ndarray]] = field(default_factory=lambda: {task: {} for task in TASKS})

    def config(self, **options: Any) -> dict[str, Any]:
        """Config of the data set over all pictures."""
        kind = dict(type='mmvmt.MultiTaskDataset', data_root=str(self.root), images='photos/{id}.jpg')
        return kind | dict(labels=LABELS, tasks=TASKS) | options


def build_own_folder(root: Path, number: int = 6, shape: tuple[int, int] = (40, 60), seed: int = 0) -> OwnFolder:
    """Write the folder, as folders are: pictures in folders and with several endings, maps of another size than their
    picture, in two places, and missing; files that belong to nothing.

    Of every four images, the second has no mask, the third no values, and the last neither.
    """
    rng = np.random.default_rng(seed)
    folder = OwnFolder(root)
    height, width = shape
    (root / 'lists').mkdir(parents=True)
    for index in range(number):
        img_id = f'day{index % 2}/field_{index:03d}'
        folder.ids.append(img_id)
        for name in ('photos', 'crops/checked', 'crops/raw', 'lanes', 'albedo'):
            (root / name / img_id).parent.mkdir(parents=True, exist_ok=True)
        smooth = Image.fromarray(rng.integers(0, 256, (4, 6, 3), dtype=np.uint8))
        ending = ('.jpg', '.JPG', '.jpeg')[index % 3]
        smooth.resize((width, height), Image.Resampling.BICUBIC).save(root / f'photos/{img_id}{ending}', 'JPEG')
        half = np.zeros((height // 2, width // 2), np.uint8)
        half[3:12, 3 : 10 + index] = 1
        half[12:, 15:] = 2
        half[0] = 255
        crops = half.repeat(2, axis=0).repeat(2, axis=1)
        folder.maps['crops'][img_id] = crops
        place = 'raw' if index % 3 == 1 else 'checked'
        Image.fromarray(half if index % 3 == 2 else crops).save(root / f'crops/{place}/{img_id}.png')
        if index % 4 in (0, 2):
            lanes = np.zeros(shape, np.uint8)
            lanes[:, 5 + 3 * index : 12 + 3 * index] = 1
            folder.maps['lanes'][img_id] = lanes
            Image.fromarray(lanes * np.uint8(255)).save(root / f'lanes/{img_id}_mask.png')
        if index % 4 in (0, 1):
            albedo = rng.uniform(0, 1, (1, 1, 3)) * np.linspace(0.2, 1, width)[:, None] + np.zeros((height, 1, 1))
            albedo[:2] = np.nan
            folder.maps['albedo'][img_id] = albedo.astype(np.float32)
            np.savez(root / f'albedo/{img_id}.npz', albedo=albedo * 100, note=np.zeros(1))
    (root / 'photos/Thumbs.db').write_bytes(b'no picture')
    savemat(root / 'albedo/statistics.mat', dict(mean=1.0))
    (root / 'lists/first.txt').write_text(''.join(f'{img_id}\r\n' for img_id in folder.ids[:4]), 'utf-8-sig')
    return folder
