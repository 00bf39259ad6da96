"""Maps of all tasks for pictures: files, folders, patterns and arrays."""

from __future__ import annotations

import argparse
import glob
import logging
import os
import os.path as osp
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from mmcv.transforms import BaseTransform, LoadAnnotations
from mmengine.config import Config, DictAction
from mmengine.device import get_device
from mmengine.logging import print_log
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mmvmt.apis.weights import build_model, load_weights
from mmvmt.datasets.images import read_image
from mmvmt.datasets.transforms import LoadMultiTaskAnnotations, LoadMultiTaskImage, PackMultiTaskInputs
from mmvmt.engine.run_config import add_trust_argument
from mmvmt.models import MultiTaskEncoderDecoder
from mmvmt.registry import TRANSFORMS
from mmvmt.structures import TASKS, MultiTaskDataSample, NormalsAxes, check_tasks, save_predictions
from mmvmt.visualization import MultiTaskVisualizer

IMAGE_SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')
"""Files of a folder that count as pictures, in small or capital letters."""

PICTURES = 'pictures'
"""Folder of the labelled pictures, beside those of the tasks."""

ImageInput = str | os.PathLike | np.ndarray


class UnreadableImagesError(ValueError):
    """Some of several pictures could not be read; all others were computed.

    Args:
        failures: By path, what is wrong with the file.
    """

    def __init__(self, failures: Mapping[str, str]) -> None:
        self.failures = dict(failures)
        self.maps: dict[str, dict[str, np.ndarray]] = {}
        """What was computed of the others, as :meth:`MultiTaskInferencer.__call__` would have returned it."""
        super().__init__(
            f'{_unreadable(self.failures)}. Everything else was computed; remove these files, or leave them out by '
            f"on_unreadable='skip'"
        )


@dataclass(frozen=True)
class ImagePrediction:
    """The maps of one picture.

    Args:
        name: Name of the picture within the call, without suffix; may hold folders.
        sample: The sample, with ``pred`` at the size of the picture.
        path: File of the picture; None if it came as an array.
        array: ``(H, W, 3)`` uint8, BGR; None if the file has to be read again.
    """

    name: str
    sample: MultiTaskDataSample
    path: str | None = None
    array: np.ndarray | None = None

    @property
    def image(self) -> np.ndarray:
        """The picture, upright, ``(H, W, 3)`` uint8 in BGR order."""
        return read_image(self.path, upright=True) if self.array is None else self.array

    @property
    def maps(self) -> dict[str, np.ndarray]:
        """By task: classes ``(H, W)`` uint8; probabilities ``(H, W)``, unit vectors ``(3, H, W)`` and depth in metres
        ``(H, W)`` float32."""
        fields = {task: self.sample.pred.get(task).cpu().numpy() for task in TASKS if task in self.sample.pred}
        return {task: field if TASKS[task].kind == 'vectors' else field[0] for task, field in fields.items()}

    def draw(self) -> np.ndarray:
        """The picture and its coloured maps side by side, with labels: ``(H', W', 3)`` uint8, RGB."""
        image = cv2.cvtColor(self.image, cv2.COLOR_BGR2RGB)
        return MultiTaskVisualizer.draw_datasample(image, self.sample, draw_gt=False, title=self.name)

    def save(self, out_dir: str | os.PathLike) -> list[str]:
        """Write maps and picture.

        Args:
            out_dir: Folder. Maps go to ``out_dir/TASK/NAME.png`` in the formats of PASCAL_MT (depth: ``.npy``), the
                labelled picture to ``out_dir/pictures/NAME.png``.

        Returns:
            The paths written.

        Raises:
            OSError: A file cannot be written.
        """
        paths = save_predictions(self.sample, os.fspath(out_dir))
        path = osp.join(out_dir, PICTURES, f'{self.name}.png')
        os.makedirs(osp.dirname(path), exist_ok=True)
        if not cv2.imwrite(path, cv2.cvtColor(self.draw(), cv2.COLOR_RGB2BGR)):
            raise OSError(f'could not write {path}; check the folder and the free space')
        return [*paths, path]


class _Item(NamedTuple):
    """One picture of a call."""

    name: str
    path: str | None = None
    array: np.ndarray | None = None


class MultiTaskInferencer:
    """Computes the maps of all tasks for pictures, at the size of the pictures.

    Called as the inferencers of mmsegmentation are. It is no subclass of mmengine's ``BaseInferencer``: that one loads
    weights by executing what a file holds, and keeps the results of a whole folder in memory until all are there.

    Pictures go through the pipeline of the config's ``test_dataloader`` without its annotations. Photos are turned
    upright by the orientation in their EXIF data, as viewers and OpenCV show them. Several of different
    sizes can share a batch: the smaller ones are padded, and because windows at their edge then see padding, maps there
    differ a little from those of a batch of one.

    Args:
        model: Path of a config, a config, or a model. A model that is given is used as it is, in evaluation mode.
        weights: Checkpoint or adapter file; needed unless ``model`` is a model. Nothing in it is executed, unless
            ``trusted`` is set.
        tasks: Tasks to compute; None: all of the model. Features and heads of others are not computed.
        device: Device such as ``'cuda:0'``; None: a GPU if there is one, and for a given model where it is.
        pipeline: Configs of the transforms instead of those of the config; for a given model by default loading alone.
        cfg_options: Changes of config entries, by their dotted names.
        show_progress: Whether a progress bar is shown for several pictures.
        trusted: Let a checkpoint execute what it holds besides weights; for files of your own only.

    Raises:
        FileNotFoundError: The config or the weights do not exist.
        ValueError: Weights are missing or do not fit, a task or device is unknown, or the pipeline does not begin with
            ``LoadMultiTaskImage`` and end with ``PackMultiTaskInputs``.
        TypeError: The model is none of several tasks.

    Examples:
        >>> inferencer = MultiTaskInferencer('configs/vmt/swin_t_pascal.py', 'work_dirs/swin_t_pascal/iter_40000.pth')
        >>> maps = inferencer('street.jpg')
        >>> maps['semseg'].shape, maps['normals'].shape
        ((375, 500), (3, 375, 500))
        >>> inferencer('photos', out_dir='maps', batch_size=8)
    """

    def __init__(
        self,
        model: str | os.PathLike | Config | MultiTaskEncoderDecoder,
        weights: str | os.PathLike | None = None,
        *,
        tasks: Sequence[str] | None = None,
        device: str | torch.device | None = None,
        pipeline: Sequence[dict[str, Any]] | None = None,
        cfg_options: Mapping[str, Any] | None = None,
        show_progress: bool = True,
        trusted: bool = False,
    ) -> None:
        if device is not None:
            _check_device(device)
        cfg = None if isinstance(model, torch.nn.Module) else _config(model, cfg_options)
        if cfg is not None:
            if weights is None:
                raise ValueError(
                    'a config alone gives a model with random weights: name a checkpoint or an adapter file as weights'
                )
            model = build_model(cfg)
            device = device or get_device()
        elif cfg_options:
            raise ValueError(f'cfg_options {dict(cfg_options)} change a config, but a built model was given')
        if not isinstance(model, MultiTaskEncoderDecoder):
            raise TypeError(f'the model must be a MultiTaskEncoderDecoder, got {type(model).__name__}')
        self.tasks = model.tasks if tasks is None else check_tasks(tasks, model.tasks)
        if pipeline is None:
            pipeline = _DEFAULT_PIPELINE if cfg is None else _test_pipeline(cfg)
        self._loader, self._transforms = _build_pipeline(pipeline)
        meta = {} if weights is None else load_weights(model, weights, trusted)
        self.axes = NormalsAxes.of(meta.get('dataset_meta')) or NormalsAxes()
        """Axes of the normals: those that the file of weights says the model was trained on, else PASCAL_MT's."""
        self.model = (model if device is None else model.to(device)).eval()
        self.show_progress = show_progress

    def __call__(
        self,
        inputs: ImageInput | Sequence[ImageInput],
        *,
        batch_size: int = 1,
        out_dir: str | os.PathLike | None = None,
        on_unreadable: str = 'raise',
    ) -> dict[str, np.ndarray] | dict[str, dict[str, np.ndarray]]:
        """Compute the maps of pictures, and hold them all in memory; for many pictures, iterate over :meth:`predict`.

        Args:
            inputs: Path of a picture or a folder, a pattern such as ``'photos/**/*.jpg'``, an array ``(H, W, 3)``
                uint8 in BGR order, or a list of these.
            batch_size: Pictures that go through the model together.
            out_dir: Folder for maps and labelled pictures, see :meth:`ImagePrediction.save`.
            on_unreadable: What to do when some of several pictures cannot be read: ``'raise'`` after all others were
                computed and saved, or ``'skip'`` them and name them in the log.

        Returns:
            For one picture its maps by task, see :attr:`ImagePrediction.maps`; for a folder, a pattern or a list those
            of every picture, by its name: the path within the folder without suffix, ``array_0`` for an array.

        Raises:
            FileNotFoundError: There is no such picture, or none in the folder.
            ValueError: An array is no picture, or the one picture cannot be read.
            UnreadableImagesError: Some of several cannot be read; its ``maps`` are those of the others.
        """
        maps: dict[str, dict[str, np.ndarray]] = {}
        try:
            for prediction in self.predict(inputs, batch_size=batch_size, on_unreadable=on_unreadable):
                if out_dir is not None:
                    prediction.save(out_dir)
                maps[prediction.name] = prediction.maps
        except UnreadableImagesError as error:
            error.maps = maps
            raise
        return next(iter(maps.values())) if _is_single(inputs) else maps

    def predict(
        self, inputs: ImageInput | Sequence[ImageInput], *, batch_size: int = 1, on_unreadable: str = 'raise'
    ) -> Iterator[ImagePrediction]:
        """Compute picture after picture; no more than one batch is in memory.

        Args and errors as in :meth:`__call__`.
        """
        if batch_size < 1:
            raise ValueError(f'batch_size must be 1 or more, got {batch_size}')
        if on_unreadable not in ('raise', 'skip'):
            raise ValueError(f"on_unreadable must be 'raise' or 'skip', got {on_unreadable!r}")
        return self._predict(_items(inputs), batch_size, on_unreadable, _is_single(inputs))

    def _predict(
        self, items: Sequence[_Item], batch_size: int, on_unreadable: str, single: bool
    ) -> Iterator[ImagePrediction]:
        failures: dict[str, str] = {}
        with self._progress(len(items)) as advance:
            for start in range(0, len(items), batch_size):
                batch = items[start : start + batch_size]
                loaded = []
                for item in batch:
                    try:
                        loaded.append((item, self._load(item)))
                    except (OSError, ValueError) as error:
                        if single:
                            raise
                        failures[item.path] = str(error)
                if loaded:
                    yield from self._forward(loaded)
                advance(len(batch))
        if failures and on_unreadable == 'raise':
            raise UnreadableImagesError(failures)
        if failures:
            print_log(_unreadable(failures), logger='current', level=logging.WARNING)

    def _load(self, item: _Item) -> dict[str, Any]:
        results = dict(img_id=item.name, **self.axes.meta)
        if item.path is not None:
            if not osp.isfile(item.path):
                raise FileNotFoundError(f'picture {item.path!r} does not exist')
            try:
                return self._loader(results | dict(img_path=item.path))
            except Image.DecompressionBombError as error:
                raise ValueError(f'picture {item.path!r} is too large: {error}') from error
        results |= dict(img=item.array, ori_shape=item.array.shape[:2], img_shape=item.array.shape[:2])
        return results if self._loader.resize is None else self._loader.resize(results)

    def _forward(self, loaded: Sequence[tuple[_Item, dict[str, Any]]]) -> Iterator[ImagePrediction]:
        images = [item.array if self._loader.resize else results['img'] for item, results in loaded]
        packed = []
        for _, results in loaded:
            for transform in self._transforms:
                results = transform(results)
            packed.append(results)
        data = {key: [entry[key] for entry in packed] for key in ('inputs', 'data_samples')}
        with self._settings():
            samples = self.model.test_step(data)
        for (item, _), image, sample in zip(loaded, images, samples):
            yield ImagePrediction(item.name, sample, item.path, image)

    @contextmanager
    def _settings(self) -> Iterator[None]:
        """The chosen tasks at the size of the pictures; the model is left as it was."""
        model = self.model
        test_cfg, tasks = model.test_cfg, model.active_tasks
        model.test_cfg = test_cfg | dict(resolution='original')
        model.set_active_tasks(self.tasks)
        try:
            yield
        finally:
            model.test_cfg = test_cfg
            model.set_active_tasks(tasks)

    @contextmanager
    def _progress(self, total: int) -> Iterator[Any]:
        if not self.show_progress or total < 2:
            yield lambda count: None
            return
        columns = (TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task('pictures', total=total)
            yield lambda count: progress.advance(task, count)


def add_inferencer_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what a program that computes maps needs to know of the model, see :func:`build_inferencer`."""
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint or adapter file')
    parser.add_argument('--tasks', help='tasks to compute, with commas between them (default: all of the model)')
    parser.add_argument('--device', help='device such as cuda:0 or cpu (default: a GPU if there is one)')
    parser.add_argument('--batch-size', type=int, default=1, help='pictures that go through the model together')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, help='override config entries, as key=value pairs'
    )
    add_trust_argument(parser)


def build_inferencer(args: argparse.Namespace, show_progress: bool = True) -> MultiTaskInferencer:
    """The inferencer that the arguments of :func:`add_inferencer_arguments` describe."""
    return MultiTaskInferencer(
        args.config,
        args.checkpoint,
        tasks=split_tasks(args.tasks),
        device=args.device,
        cfg_options=args.cfg_options,
        show_progress=show_progress,
        trusted=args.trust_checkpoint,
    )


def split_tasks(text: str | None) -> list[str] | None:
    """Names with commas between them as a list; None stays None."""
    return None if text is None else [name.strip() for name in text.split(',')]


_DEFAULT_PIPELINE = (dict(type='mmvmt.LoadMultiTaskImage'), dict(type='mmvmt.PackMultiTaskInputs'))


def _config(model: str | os.PathLike | Config, cfg_options: Mapping[str, Any] | None) -> Config:
    if isinstance(model, (str, os.PathLike)):
        if not osp.isfile(model):
            raise FileNotFoundError(f'config {os.fspath(model)!r} does not exist')
        cfg = Config.fromfile(model)
    elif isinstance(model, Config):
        cfg = model.copy()
    else:
        raise TypeError(f'model must be the path of a config, a Config or a model, got {type(model).__name__}')
    if cfg_options:
        cfg.merge_from_dict(dict(cfg_options))
    return cfg


def _check_device(device: str | torch.device) -> None:
    try:
        torch.empty(0, device=device)
    # torch built without CUDA asserts that it has it.
    except (AssertionError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device '{device}' cannot be used: {reason}; choose 'cpu', or 'cuda:N' of a GPU") from error


def _test_pipeline(cfg: Config) -> Sequence[dict[str, Any]]:
    """The pipeline of the test data, inside wrappers too.

    Raises:
        ValueError: The config has none.
    """
    dataset = (cfg.get('test_dataloader') or {}).get('dataset')
    while dataset is not None and 'pipeline' not in dataset:
        dataset = dataset.get('dataset')
    if dataset is None:
        raise ValueError(
            f'config {cfg.filename} has no test_dataloader whose data set has one pipeline; give the inferencer a '
            f'pipeline'
        )
    return dataset.pipeline


def _build_pipeline(pipeline: Sequence[dict[str, Any]]) -> tuple[LoadMultiTaskImage, list[BaseTransform]]:
    """The loader, and what follows it, without loaders of annotations."""
    transforms = [TRANSFORMS.build(transform) for transform in pipeline]
    transforms = [t for t in transforms if not isinstance(t, (LoadMultiTaskAnnotations, LoadAnnotations))]
    names = ', '.join(type(transform).__name__ for transform in transforms)
    if not transforms or not isinstance(transforms[0], LoadMultiTaskImage):
        raise ValueError(f'the pipeline must begin with LoadMultiTaskImage, got: {names or "nothing"}')
    if not isinstance(transforms[-1], PackMultiTaskInputs):
        raise ValueError(f'the pipeline must end with PackMultiTaskInputs, got: {names}')
    # Pictures without label maps have no orientation to keep; people see them upright.
    transforms[0].upright = True
    return transforms[0], transforms[1:]


def _is_single(inputs: ImageInput | Sequence[ImageInput]) -> bool:
    if isinstance(inputs, (str, os.PathLike)):
        return not osp.isdir(inputs) and not _is_pattern(inputs)
    return isinstance(inputs, np.ndarray)


def _is_pattern(path: str | os.PathLike) -> bool:
    return glob.has_magic(os.fspath(path)) and not osp.exists(path)


def _items(inputs: ImageInput | Sequence[ImageInput]) -> list[_Item]:
    """The pictures of a call, each with a name of its own."""
    listed = [inputs] if isinstance(inputs, (str, os.PathLike, np.ndarray)) else list(inputs)
    if not listed:
        raise ValueError('there is no picture: the list of inputs is empty')
    entries: list[str | np.ndarray] = []
    for position, entry in enumerate(listed):
        if isinstance(entry, np.ndarray):
            entries.append(_checked(entry, position))
        elif isinstance(entry, (str, os.PathLike)):
            entries.extend(_files(os.fspath(entry)))
        else:
            raise TypeError(f'input {position} must be a path or an array, got {type(entry).__name__}')
    paths = [entry for entry in entries if isinstance(entry, str)]
    root = osp.commonpath([osp.dirname(osp.abspath(path)) for path in paths]) if paths else ''
    relative = [osp.relpath(osp.abspath(path), root) for path in paths]
    stems = Counter(osp.splitext(path)[0] for path in relative)
    # Two pictures that differ in their suffix alone keep it, or one's maps would replace the other's.
    names = iter(path if stems[osp.splitext(path)[0]] > 1 else osp.splitext(path)[0] for path in relative)
    items = [
        _Item(next(names), path=entry) if isinstance(entry, str) else _Item(f'array_{position}', array=entry)
        for position, entry in enumerate(entries)
    ]
    twice = [name for name, count in Counter(item.name for item in items).items() if count > 1]
    if twice:
        raise ValueError(f'picture {twice[0]!r} is named twice; name every picture once')
    return items


def _files(path: str) -> list[str]:
    if osp.isdir(path):
        found = [osp.join(path, name) for name in os.listdir(path) if name.lower().endswith(IMAGE_SUFFIXES)]
        what = f'folder {path!r} holds no picture ({", ".join(IMAGE_SUFFIXES)})'
    elif _is_pattern(path):
        found = glob.glob(path, recursive=True)
        what = f'pattern {path!r} matches no file'
    else:
        return [path]
    found = sorted(name for name in found if osp.isfile(name))
    if not found:
        raise FileNotFoundError(what)
    return found


def _checked(array: np.ndarray, position: int) -> np.ndarray:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ValueError(
            f'input {position} must be a picture (H, W, 3) uint8 in BGR order, got {array.shape} {array.dtype}'
        )
    return array


def _unreadable(failures: Mapping[str, str]) -> str:
    lines = ''.join(f'\n  {reason}' for reason in failures.values())
    return f'{len(failures)} of the pictures cannot be read:{lines}\n'.rstrip()
