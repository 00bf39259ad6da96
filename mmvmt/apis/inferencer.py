"""Maps of all tasks for pictures."""

from __future__ import annotations

import argparse
import logging
import os
import os.path as osp
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from mmcv.transforms import BaseTransform, LoadAnnotations
from mmengine.config import Config, DictAction
from mmengine.device import get_device
from mmengine.logging import print_log
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mmvmt.apis.pictures import ImageInput, Picture, UnreadableImagesError, is_single, list_pictures, unreadable
from mmvmt.apis.prediction import ImagePrediction
from mmvmt.apis.weights import build_model, declare_tasks_of, load_weights
from mmvmt.datasets.transforms import (
    LoadMultiTaskAnnotations,
    LoadMultiTaskImage,
    PackMultiTaskInputs,
    follow_picture,
)
from mmvmt.engine.run_config import add_trust_argument
from mmvmt.models import MultiTaskEncoderDecoder
from mmvmt.models.wrappers import unwrapped
from mmvmt.registry import TRANSFORMS
from mmvmt.structures import (
    NormalsAxes,
    TaskDeclarations,
    check_tasks,
    declare_tasks,
)


class MultiTaskInferencer:
    """Computes the maps of all tasks for pictures, at the size of the pictures.

    Called as the inferencers of mmsegmentation are. It is no subclass of mmengine's ``BaseInferencer``: that one loads
    weights by executing what a file holds, and keeps the results of a whole folder in memory until all are there.

    Pictures go through the pipeline of the config's ``test_dataloader`` without its annotations. Photos are turned
    upright by the orientation in their EXIF data, as viewers and OpenCV show them. Several of different sizes can share
    a batch: the smaller ones are padded, and because windows at their edge then see padding, maps there differ a little
    from those of a batch of one.

    Args:
        model: Path of a config, a config, or a model. A model that is given is used as it is, in evaluation mode.
        weights: Checkpoint or adapter file; needed unless ``model`` is a model. Nothing in it is executed, unless
            ``trusted`` is set.
        tasks: Tasks to compute, or their declarations; None: all of the model. Features and heads of others are not
            computed.
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
        tasks: TaskDeclarations | None = None,
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
            if isinstance(tasks, Mapping):
                declare_tasks(tasks)
            declare_tasks_of(cfg, weights, trusted)
            model = build_model(cfg)
            device = device or get_device()
        elif cfg_options:
            raise ValueError(f'cfg_options {dict(cfg_options)} change a config, but a built model was given')
        if isinstance(model, torch.nn.Module):
            model = unwrapped(model)
        if not isinstance(model, MultiTaskEncoderDecoder):
            raise TypeError(f'the model must be a MultiTaskEncoderDecoder, got {type(model).__name__}')
        self.tasks = model.tasks if tasks is None else check_tasks(tasks, model.tasks)
        if pipeline is None:
            pipeline = _DEFAULT_PIPELINE if cfg is None else _test_pipeline(cfg)
        self._loader, self._transforms = _build_pipeline(pipeline)
        meta = {} if weights is None else load_weights(model, weights, trusted)
        self.dataset_meta = meta.get('dataset_meta') or {}
        """What the file of weights says of the data that the model was trained on."""
        self.axes = NormalsAxes.of(self.dataset_meta) or NormalsAxes()
        """Axes of the normals: those that the file of weights says the model was trained on, else PASCAL_MT's."""
        self.model = (model if device is None else model.to(device)).eval()
        self.show_progress = show_progress

    def __call__(
        self,
        inputs: ImageInput | Iterable[ImageInput],
        *,
        batch_size: int = 1,
        out_dir: str | os.PathLike | None = None,
        on_unreadable: str = 'raise',
    ) -> dict[str, np.ndarray] | dict[str, dict[str, np.ndarray]]:
        """Compute the maps of pictures, and hold them all in memory; for many pictures, iterate over :meth:`predict`.

        Args:
            inputs: Path of a picture or a folder, a pattern such as ``'photos/**/*.jpg'``, a picture in memory, or any
                number of these. A picture in memory is an array ``(H, W, 3)`` uint8 in BGR order, as OpenCV reads it; a
                PIL image of any mode; a tensor ``(3, H, W)`` uint8 in RGB order, as torchvision reads it; or an opened
                file or its bytes. Grey arrays and tensors have one channel or none.
            batch_size: Pictures that go through the model together.
            out_dir: Folder for maps and labelled pictures, see :meth:`ImagePrediction.save`.
            on_unreadable: What to do when some of several pictures cannot be read: ``'raise'`` after all others were
                computed and saved, or ``'skip'`` them and name them in the log.

        Returns:
            For one picture its maps by task, see :attr:`ImagePrediction.maps`; for a folder, a pattern or a list those
            of every picture, by its name: the path within the folder without suffix, ``array_0`` in memory.

        Raises:
            FileNotFoundError: There is no such picture, or none in the folder.
            TypeError: An input is nothing that holds a picture.
            ValueError: An array or a tensor is no picture, or the one picture cannot be read.
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
        return next(iter(maps.values())) if is_single(inputs) else maps

    def predict(
        self, inputs: ImageInput | Iterable[ImageInput], *, batch_size: int = 1, on_unreadable: str = 'raise'
    ) -> Iterator[ImagePrediction]:
        """Compute picture after picture; no more than one batch is in memory.

        Args and errors as in :meth:`__call__`.
        """
        if batch_size < 1:
            raise ValueError(f'batch_size must be 1 or more, got {batch_size}')
        if on_unreadable not in ('raise', 'skip'):
            raise ValueError(f"on_unreadable must be 'raise' or 'skip', got {on_unreadable!r}")
        return self._predict(list_pictures(inputs), batch_size, on_unreadable, is_single(inputs))

    def _predict(
        self, pictures: Sequence[Picture], batch_size: int, on_unreadable: str, single: bool
    ) -> Iterator[ImagePrediction]:
        failures: dict[str, str] = {}
        with self._progress(len(pictures)) as advance:
            for start in range(0, len(pictures), batch_size):
                batch = pictures[start : start + batch_size]
                loaded = []
                for picture in batch:
                    try:
                        loaded.append((picture, *self._load(picture)))
                    except (OSError, ValueError) as error:
                        if single:
                            raise
                        failures[picture.path or picture.name] = str(error)
                if loaded:
                    yield from self._forward(loaded)
                advance(len(batch))
        if failures and on_unreadable == 'raise':
            raise UnreadableImagesError(failures)
        if failures:
            print_log(unreadable(failures), logger='current', level=logging.WARNING)

    def _load(self, picture: Picture) -> tuple[dict[str, Any], np.ndarray | None]:
        """What the pipeline goes on with; the picture at its own size, None if its file has to be read again."""
        results = dict(img_id=picture.name, **self.axes.meta)
        try:
            if picture.path is None:
                image = picture.decode()
                results |= dict(img=image, ori_shape=image.shape[:2], img_shape=image.shape[:2])
                return results if self._loader.resize is None else self._loader.resize(results), image
            if not osp.isfile(picture.path):
                raise FileNotFoundError(f'picture {picture.path!r} does not exist')
            results = self._loader(results | dict(img_path=picture.path))
        except Image.DecompressionBombError as error:
            raise ValueError(f'picture {(picture.path or picture.name)!r} is too large: {error}') from error
        return results, results['img'] if self._loader.resize is None else None

    def _forward(
        self, loaded: Sequence[tuple[Picture, dict[str, Any], np.ndarray | None]]
    ) -> Iterator[ImagePrediction]:
        packed = []
        for _, results, _ in loaded:
            for transform in self._transforms:
                results = transform(results)
            packed.append(results)
        data = {key: [entry[key] for entry in packed] for key in ('inputs', 'data_samples')}
        with self._settings():
            samples = self.model.test_step(data)
        for (picture, _, image), sample in zip(loaded, samples):
            yield ImagePrediction(picture.name, sample, picture.path, image, self.dataset_meta)

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
    return transforms[0], follow_picture(transforms[1:], inference=True)
