"""Draws samples while a model is validated or tested."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import mmcv
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmvmt.datasets.images import read_image
from mmvmt.registry import HOOKS
from mmvmt.structures import MultiTaskDataSample
from mmvmt.visualization import MultiTaskVisualizer


@HOOKS.register_module()
class MultiTaskVisualizationHook(Hook):
    """Draws input, truth and prediction of samples, by :class:`mmvmt.visualization.MultiTaskVisualizer`.

    In validation, every ``interval``-th sample goes to the backends of the visualizer, as ``val_<img_id>`` at the
    training step. In a test, every sample is drawn: into ``<out_dir>/<img_id>.png``, or without ``out_dir`` to the
    backends, as ``test_<img_id>``. On several ranks, each writes the files of its own samples, and the backends get
    those of rank 0.

    Args:
        draw: Draw at all.
        interval: Distance between drawn samples in validation.
        show: Open a window for each.
        wait_time: Seconds for which a window stays; 0: until a key is pressed.
        out_dir: Folder for the pictures of a test.
        max_images: Most pictures per rank in one validation or test. Default: no limit.

    Raises:
        ValueError: ``interval`` or ``max_images`` is not positive.
    """

    priority = 'NORMAL'

    def __init__(
        self,
        draw: bool = False,
        interval: int = 50,
        show: bool = False,
        wait_time: float = 0.0,
        out_dir: str | None = None,
        max_images: int | None = None,
    ) -> None:
        if interval < 1:
            raise ValueError(f'interval must be 1 or more, got {interval}')
        if max_images is not None and max_images < 1:
            raise ValueError(
                f'max_images must be 1 or more, or None for no limit, got {max_images}; draw=False draws none'
            )
        self.draw = draw
        self.interval = interval
        self.show = show
        self.wait_time = wait_time
        self.out_dir = out_dir
        self.max_images = max_images
        self._num_seen = 0
        self._num_drawn = 0

    def before_run(self, runner: Runner) -> None:
        """Refuse a visualizer that would silently draw nothing.

        Raises:
            TypeError: It is no ``MultiTaskVisualizer``.
        """
        if self.draw and not isinstance(runner.visualizer, MultiTaskVisualizer):
            raise TypeError(
                f'MultiTaskVisualizationHook cannot draw with {type(runner.visualizer).__name__}; set '
                "visualizer=dict(type='mmvmt.MultiTaskVisualizer', ...)"
            )

    def before_val_epoch(self, runner: Runner) -> None:
        """Start counting."""
        self._num_seen = self._num_drawn = 0

    def before_test_epoch(self, runner: Runner) -> None:
        """Start counting."""
        self._num_seen = self._num_drawn = 0

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict, outputs: Sequence[MultiTaskDataSample]
    ) -> None:
        """Draw every ``interval``-th sample."""
        for sample in outputs:
            if self._num_seen % self.interval == 0:
                self._draw(runner, sample, f'val_{_flat_name(sample)}', step=runner.iter)
            self._num_seen += 1

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict, outputs: Sequence[MultiTaskDataSample]
    ) -> None:
        """Draw every sample."""
        for sample in outputs:
            if self.out_dir is None:
                self._draw(runner, sample, f'test_{_flat_name(sample)}', step=self._num_seen)
            else:
                self._draw(runner, sample, sample.img_id, out_file=str(Path(self.out_dir) / f'{sample.img_id}.png'))
            self._num_seen += 1

    def _draw(
        self, runner: Runner, sample: MultiTaskDataSample, name: str, step: int = 0, out_file: str | None = None
    ) -> None:
        if not self.draw or self._num_drawn == self.max_images:
            return
        image = mmcv.bgr2rgb(read_image(sample.img_path, sample.get('upright', False)))
        height, width = sample.pred.shape
        if image.shape[:2] != (height, width):
            image = mmcv.imresize(image, (width, height))
        runner.visualizer.add_datasample(
            name, image, sample, show=self.show, wait_time=self.wait_time, out_file=out_file, step=step
        )
        self._num_drawn += 1


def _flat_name(sample: MultiTaskDataSample) -> str:
    # Backends make a file name of it, so an id with folders must not name a folder that does not exist.
    return str(sample.img_id).replace('/', '_')
