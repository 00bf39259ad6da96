"""Tiny NYUD-v2 folders in the formats of the three archives, written by hand from their description."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

EDITIONS = ('astmt', 'mtinet', 'atrc')
FORMATS = {
    # images, segmentation, depth, normals, edge
    'astmt': ('jpg', 'mat', 'mat', 'jpg', 'png'),
    'mtinet': ('jpg', 'png', 'npy', 'npy', 'npy'),
    'atrc': ('png', 'png', 'npy', 'png', 'png'),
}
FOLDERS = ('images', 'segmentation', 'depth', 'normals', 'edge')
SPLITS = {'train': ('0003', '0004', '0011'), 'val': ('0001', '0002')}


@dataclass
class NYUDFolder:
    """A folder on disk and what its label maps hold: classes 0 to 39 and 255, metres, unit vectors, 0 and 1."""

    root: Path
    edition: str
    maps: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)

    def path(self, folder: str, img_id: str) -> Path:
        """The file of an image in one of the folders."""
        return self.root / folder / f'{img_id}.{FORMATS[self.edition][FOLDERS.index(folder)]}'


def build_folder(root: Path, edition: str, shape: tuple[int, int] = (40, 60), seed: int = 0) -> NYUDFolder:
    """Write one of the archives, as irregular as they are: a list with a byte order mark and another system's line
    ends, a picture with another ending, maps of half the size, pixels without depth and normals, files of no list.
    """
    rng = np.random.default_rng(seed)
    folder = NYUDFolder(root, edition)
    for name in (*FOLDERS, 'gt_sets'):
        (root / name).mkdir(parents=True)
    (root / 'images/Thumbs.db').write_bytes(b'no image')
    folder.path('segmentation', '1449').write_bytes(b'of no list')
    (root / 'gt_sets/train.txt').write_text('\n'.join(SPLITS['train']))
    (root / 'gt_sets/val.txt').write_text(''.join(f'{i}\n' for i in SPLITS['val']), 'utf-8-sig', newline='\r\n')
    for img_id in (*SPLITS['train'], *SPLITS['val']):
        photo = Image.fromarray(rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)).resize(shape[::-1])
        path = folder.path('images', img_id)
        photo.save(path.with_suffix('.JPEG') if img_id == '0002' and path.suffix == '.jpg' else path)

        ids = np.zeros(shape, np.uint8)  # 0 is unlabelled, 1 to 40 are the classes
        ids[3:, 3:] = rng.integers(1, 41)
        ids[10:25, 20:50] = rng.integers(1, 41)
        depth = rng.uniform(0.7, 10, shape).astype(np.float32)
        depth[:2] = 0
        normals = rng.normal(size=(*shape, 3))
        normals[..., 2] = np.abs(normals[..., 2]) + 0.5
        normals = (normals / np.linalg.norm(normals, axis=2, keepdims=True)).astype(np.float32)
        if edition == 'astmt':
            normals[:] = normals[0, 0]  # what JPEG keeps
        normals[:8] = 0
        edge = np.zeros(shape, np.uint8)
        edge[10, 20:50] = edge[24, 20:50] = 1
        halved = img_id == '0011'
        if halved:
            ids, depth = ids[::2, ::2], depth[::2, ::2]
        _save(folder, img_id, ids, depth, normals, edge)
        if halved:
            ids, depth = (values.repeat(2, axis=0).repeat(2, axis=1) for values in (ids, depth))
        semseg = np.where(ids == 0, 255, ids.astype(int) - 1).astype(np.uint8)
        folder.maps[img_id] = dict(semseg=semseg, depth=depth, normals=normals, edge=edge)
    return folder


def _save(folder: NYUDFolder, img_id: str, ids, depth, normals, edge) -> None:
    path = folder.path('segmentation', img_id)
    if path.suffix == '.mat':
        savemat(path, {'segmentation': ids.astype(np.float64)})
    else:
        Image.fromarray(ids).save(path)
    path = folder.path('depth', img_id)
    if path.suffix == '.mat':
        savemat(path, {'depth': depth.astype(np.float64)})
    else:
        np.save(path, depth)
    path = folder.path('normals', img_id)
    if path.suffix == '.npy':
        np.save(path, normals)
    else:
        codes = Image.fromarray(np.round((normals + 1) * 127.5).astype(np.uint8))
        codes.save(path, **(dict(quality=100, subsampling=0) if path.suffix == '.jpg' else {}))
    path = folder.path('edge', img_id)
    if path.suffix == '.npy':
        np.save(path, edge.astype(np.float64))
    else:
        Image.fromarray(edge * np.uint8(255)).save(path)
