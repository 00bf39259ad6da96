"""Tiny Cityscapes folders, written by hand from the description of the format."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

BASELINE, FOCAL_LENGTH = 0.209313, 2262.52
SPLITS = {
    'train': ('aachen/aachen_000000_000019', 'aachen/aachen_000001_000019', 'hamburg/hamburg_000000_000042'),
    'val': ('lindau/lindau_000000_000019', 'munster/munster_000000_000019'),
}
# Ids of the classes in gtFine and what a model is trained on; all others are ignored.
ROAD, SKY, PERSON, RIDER, CAR = (7, 0), (23, 10), (24, 11), (25, 12), (26, 13)
EGO_VEHICLE, LICENSE_PLATE = 1, 255
ENDINGS = {
    'leftImg8bit': 'leftImg8bit.png',
    'gtFine': 'gtFine_labelTrainIds.png',
    'disparity': 'disparity.png',
    'camera': 'camera.json',
    'gtFinePanopticParts': 'gtFinePanopticParts.tif',
}


@dataclass
class CityscapesFolder:
    """A folder on disk and what its label maps hold: classes, metres, pixels of disparity, parts."""

    root: Path
    maps: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)

    def path(self, package: str, img_id: str) -> Path:
        """The file of an image in a package; of classes that of the training ids."""
        split = next(split for split, ids in SPLITS.items() if img_id in ids)
        return self.root / package / split / f'{img_id}_{ENDINGS[package]}'


def build_folder(root: Path, shape: tuple[int, int] = (32, 64), seed: int = 0) -> CityscapesFolder:
    """Write the packages, as irregular as they are: training ids for one city alone, two cameras, a camera file with a
    byte order mark, a disparity of 0 that is known, a map of half the size, a picture without people, other files of
    gtFine, which every tool reads, and of other packages.
    """
    rng = np.random.default_rng(seed)
    folder = CityscapesFolder(root)
    for number, img_id in enumerate((*SPLITS['train'], *SPLITS['val'])):
        for package in ENDINGS:
            folder.path(package, img_id).parent.mkdir(parents=True, exist_ok=True)
        photo = Image.fromarray(rng.integers(0, 256, (4, 8, 3), dtype=np.uint8)).resize(shape[::-1])
        photo.save(folder.path('leftImg8bit', img_id))

        ids, classes = (np.full(shape, value, np.uint8) for value in ROAD)
        uids = np.full(shape, ROAD[0], np.int32)
        # Without a part of a human a map is as good as unlabelled.
        parts = np.full(shape, 255 if number == 1 else 0, np.uint8)
        for (top, bottom, left, right), (label, train_id) in (
            ((0, 8, 0, 64), SKY), ((10, 28, 5, 20), PERSON), ((10, 28, 30, 40), RIDER), ((14, 30, 44, 60), CAR),
        ):  # fmt: skip
            label, train_id = (label, train_id) if number != 1 or label not in (24, 25) else CAR
            ids[top:bottom, left:right], classes[top:bottom, left:right] = label, train_id
            uids[top:bottom, left:right] = label * 1000 + 2 if label > 23 else label
        ids[-2:], classes[-2:], uids[-2:] = EGO_VEHICLE, 255, EGO_VEHICLE
        ids[15, 50] = LICENSE_PLATE
        classes[15, 50] = 255
        if number != 1:
            parts[10:28, 5:20] = parts[10:28, 30:40] = 255  # humans without a part
            for (top, bottom, left, right), label, part in (
                ((10, 13, 8, 14), 24, 2), ((13, 20, 8, 14), 24, 1), ((20, 28, 8, 14), 24, 4), ((10, 13, 32, 36), 25, 2),
                ((14, 17, 30, 40), 25, 3), ((26, 28, 30, 40), 25, 0),
            ):  # fmt: skip
                uids[top:bottom, left:right] = label * 100_000 + 2 * 100 + part
                parts[top:bottom, left:right] = part or 255
        uids[20:24, 46:50] = CAR[0] * 100_000 + 2 * 100 + 1  # a part of a car is none of a human
        Image.fromarray(uids).save(folder.path('gtFinePanopticParts', img_id))

        plain = folder.path('gtFine', img_id)
        if number == 2:
            ids, classes = ids[::2, ::2], classes[::2, ::2].repeat(2, axis=0).repeat(2, axis=1)
        Image.fromarray(ids).save(plain.with_name(plain.name.replace('labelTrainIds', 'labelIds')))
        if img_id.startswith('aachen'):
            Image.fromarray(classes).save(plain)
        Image.new('RGB', shape[::-1]).save(plain.with_name(plain.name.replace('labelTrainIds', 'color')))
        plain.with_name(plain.name.replace('labelTrainIds.png', 'polygons.json')).write_text('{}')

        levels = rng.integers(300, 30_000, shape).astype(np.uint16)
        levels[:8] = 0
        levels[10, 10] = 1  # a disparity of 0
        Image.fromarray(levels).save(folder.path('disparity', img_id))
        camera = (
            dict(baseline=BASELINE + 0.01 * number, roll=0.0),
            dict(fx=FOCAL_LENGTH, fy=2265.3, u0=1096.98, v0=513.1),
        )
        text = json.dumps(dict(extrinsic=camera[0], intrinsic=camera[1]), indent=4)
        folder.path('camera', img_id).write_text(text, 'utf-8-sig' if number == 3 else 'utf-8')
        disparity = np.where(levels > 1, (levels.astype(np.float64) - 1) / 256, 0)
        with np.errstate(divide='ignore'):
            depth = np.where(disparity > 0, camera[0]['baseline'] * FOCAL_LENGTH / disparity, 0)
        folder.maps[img_id] = dict(
            semseg=classes, depth=depth.astype(np.float32), disparity=disparity.astype(np.float32), human_parts=parts
        )
    return folder
