"""Tiny PASCAL_MT folders, written by hand from the description of the format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image
from scipy.io import savemat

# Ids of PASCAL-Context: 'sky' carries no valid normals, 'wall' and 'floor' do.
SKY, WALL, FLOOR = 360, 440, 158


@dataclass
class PascalMTFolder:
    """A folder on disk and what was written into it."""

    root: Path
    train: tuple[str, ...]
    val: tuple[str, ...]
    semseg: dict[str, np.ndarray] = field(default_factory=dict)
    saliency: dict[str, np.ndarray] = field(default_factory=dict)
    normals: dict[str, np.ndarray] = field(default_factory=dict)
    context: dict[str, np.ndarray] = field(default_factory=dict)
    elsewhere: dict[tuple[str, str], str] = field(default_factory=dict)

    def path(self, task: str, img_id: str) -> Path:
        """File of an image (``'image'``) or of a label map; ``'context'`` is the file of edges and valid normals."""
        folder, extension = {
            'image': ('JPEGImages', 'jpg'),
            'semseg': ('semseg/VOC12', 'png'),
            'human_parts': ('human_parts', 'mat'),
            'saliency': ('sal_distill', 'png'),
            'normals': ('normals_distill', 'png'),
            'context': ('pascal-context/trainval', 'mat'),
        }[task]
        return self.root / self.elsewhere.get((task, img_id), f'{folder}/{img_id}.{extension}')


def write_parts(path: Path, objects: Sequence[tuple[str, int, np.ndarray, Sequence[tuple[str, np.ndarray]]]]) -> None:
    """Write ``anno`` with objects of (class, class index, mask, parts), parts being (name, mask)."""
    object_array = np.zeros(
        (1, len(objects)), dtype=[('class', 'O'), ('class_ind', 'O'), ('mask', 'O'), ('parts', 'O')]
    )
    for column, (name, index, mask, parts) in enumerate(objects):
        part_array = np.zeros((1, len(parts)), dtype=[('part_name', 'O'), ('mask', 'O')])
        for part_column, part in enumerate(parts):
            part_array[0, part_column] = part
        object_array[0, column] = (name, index, mask, part_array if parts else np.zeros((0, 0)))
    objects_field = object_array if objects else np.zeros((0, 0))
    savemat(path, {'anno': {'imname': path.stem, 'objects': objects_field}}, do_compression=True)


def save_photo(path: Path, pixels: np.ndarray, orientation: int) -> None:
    """Write a photo that viewers show as ``pixels`` ``(H, W, 3)``, stored in one of EXIF's eight orientations."""
    stored = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.swapaxes(0, 1),
        6: pixels.swapaxes(0, 1)[::-1],
        7: pixels[::-1, ::-1].swapaxes(0, 1),
        8: pixels.swapaxes(0, 1)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif, quality=95)


def rectangle(shape: tuple[int, int], top: int, left: int, bottom: int, right: int) -> np.ndarray:
    """A mask that is 1 inside the rectangle."""
    mask = np.zeros(shape, dtype=np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


def build_folder(
    root: Path,
    train: Sequence[str] = ('2008_000001', '2008_000002', '2008_000003'),
    val: Sequence[str] = ('2008_000004', '2008_000005'),
    shape: tuple[int, int] = (40, 60),
    seed: int = 0,
) -> PascalMTFolder:
    """Write the layout, as irregular as the archive: semseg in both folders, maps of another size than their picture,
    pictures with another ending, lists from another system, files that belong to no list.

    Images at even positions of a split hold a person with a head and a left upper arm, those at odd positions of the
    training split no person, those at odd positions of the validation split one with parts whose masks are empty. The
    maps kept in the result are those at the size of the picture.
    """
    rng = np.random.default_rng(seed)
    folder = PascalMTFolder(root, tuple(train), tuple(val))
    for task in ('image', 'semseg', 'human_parts', 'saliency', 'normals', 'context'):
        folder.path(task, 'any').parent.mkdir(parents=True)
    (root / 'semseg/pascal-context').mkdir()
    (root / 'ImageSets/Context').mkdir(parents=True)
    for name in ('JPEGImages', 'semseg/VOC12', 'human_parts'):
        (root / name / 'Thumbs.db').write_bytes(b'no image')
    height, width = shape
    for split in ('train', 'val'):
        ids = getattr(folder, split)
        lines, encoding = ('\r\n', 'utf-8-sig') if split == 'val' else ('\n', 'utf-8')
        list_path = root / f'ImageSets/Context/{split}.txt'
        list_path.write_text(''.join(f'{img_id}\n' for img_id in ids), encoding, newline=lines)
        for position, img_id in enumerate(ids):
            if position % 2 == 1:
                folder.elsewhere['semseg', img_id] = f'semseg/pascal-context/{img_id}.png'
            if (split, position) == ('val', 1):
                folder.elsewhere['image', img_id] = f'JPEGImages/{img_id}.JPEG'
            smooth = Image.fromarray(rng.integers(0, 256, (4, 6, 3), dtype=np.uint8))
            smooth.resize((width, height), Image.Resampling.BICUBIC).save(folder.path('image', img_id), quality=92)

            semseg = np.full(shape, 255, dtype=np.uint8)
            semseg[2:, 2:] = 0
            semseg[5:20, 5:30] = rng.integers(1, 21)
            folder.semseg[img_id], semseg = _stored(semseg, halved=(split, position) == ('train', 2))
            palette_png = Image.fromarray(semseg)
            palette_png.putpalette(list(rng.integers(0, 256, 768)))
            palette_png.save(folder.path('semseg', img_id))
            if position == 2:
                # The first folder counts.
                Image.new('L', (width, height), 7).save(root / f'semseg/pascal-context/{img_id}.png')

            person = rectangle(shape, 5, 5, 30, 20)
            parts = [('head', rectangle(shape, 5, 8, 12, 16)), ('luarm', rectangle(shape, 14, 5, 20, 9))]
            objects = [('chair', 9, rectangle(shape, 1, 30, 9, 50), [('leg', rectangle(shape, 1, 30, 3, 32))])]
            if position % 2 == 0:
                objects.append(('person', 15, person, parts))
            elif split == 'val':
                objects.append(('person', 15, person, [(name, np.zeros_like(mask)) for name, mask in parts]))
            write_parts(folder.path('human_parts', img_id), objects)

            saliency = rectangle(shape, 8, 10, 8 + rng.integers(5, 20), 40)
            folder.saliency[img_id], saliency = _stored(saliency, halved=(split, position) == ('val', 0))
            Image.fromarray(saliency * np.uint8(255)).save(folder.path('saliency', img_id))

            vectors = rng.normal(size=(*shape, 3))
            vectors[..., 2] = np.abs(vectors[..., 2]) + 0.5
            vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
            code = np.round((vectors + 1) / 2 * 255).astype(np.uint8)
            Image.fromarray(code).save(folder.path('normals', img_id))
            folder.normals[img_id] = vectors.astype(np.float32)

            context = np.full(shape, SKY, dtype=np.uint16)
            context[15:] = WALL
            context[30:, 20:] = FLOOR
            savemat(folder.path('context', img_id), {'LabelMap': context}, do_compression=True)
            folder.context[img_id] = context
    return folder


def _stored(label: np.ndarray, halved: bool) -> tuple[np.ndarray, np.ndarray]:
    """A map as it is read, at the size of the picture, and as it is stored."""
    if not halved:
        return label, label
    half = label[::2, ::2]
    return half.repeat(2, axis=0).repeat(2, axis=1), half
