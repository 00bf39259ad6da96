"""The visualizer: one picture per sample, to files, windows and backends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mmcv
import numpy as np
from mmengine.dist import is_main_process
from mmengine.visualization import Visualizer

from mmvmt.registry import VISUALIZERS
from mmvmt.structures import TASKS, MultiTaskDataSample, NormalsAxes

from .drawing import draw_multi_task


@VISUALIZERS.register_module()
class MultiTaskVisualizer(Visualizer):
    """Draws input, truth and prediction of all tasks of a sample in one labelled picture.

    Normals are drawn by the axes in the sample's meta information, classes by the palettes in :attr:`dataset_meta`,
    which runs set.

    Arguments are those of :class:`mmengine.visualization.Visualizer`.

    Examples:
        >>> visualizer = dict(
        ...     type='mmvmt.MultiTaskVisualizer',
        ...     vis_backends=[dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')])
    """

    def add_datasample(
        self,
        name: str,
        image: np.ndarray,
        data_sample: MultiTaskDataSample | None = None,
        draw_gt: bool = True,
        draw_pred: bool = True,
        show: bool = False,
        wait_time: float = 0,
        out_file: str | None = None,
        step: int = 0,
    ) -> None:
        """Draw a sample; show it, write it to a file, or else hand it to the backends.

        A file is written on every rank, as each has samples of its own; windows and backends belong to rank 0.

        Args:
            name: Title of the picture, and its name in the backends.
            image: ``(H, W, 3)`` uint8, RGB.
            data_sample: Truth and prediction; what is missing is left out.
            draw_gt: Draw the truth.
            draw_pred: Draw the prediction.
            show: Open a window.
            wait_time: Seconds for which the window stays; 0: until a key is pressed.
            out_file: Path of a ``.png`` or ``.jpg`` file; then nothing goes to the backends.
            step: Step under which the backends keep the picture.

        Raises:
            OSError: The file cannot be written.
        """
        picture = self.draw_datasample(image, data_sample, draw_gt, draw_pred, name, self.dataset_meta)
        if is_main_process():
            self.set_image(picture)
            if show:
                self.show(picture, win_name=name, wait_time=wait_time)
        if out_file is None:
            self.add_image(name, picture, step)
        elif not mmcv.imwrite(mmcv.rgb2bgr(picture), str(out_file)):
            raise OSError(f'could not write {out_file}; check that there is space and that the folder is writable')

    @staticmethod
    def draw_datasample(
        image: np.ndarray,
        data_sample: MultiTaskDataSample | None = None,
        draw_gt: bool = True,
        draw_pred: bool = True,
        title: str | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> np.ndarray:
        """Return the picture of a sample, ``(H', W', 3)`` uint8 RGB; arguments as in :meth:`add_datasample`.

        Args:
            meta: Meta information of the data set, for its palettes.
        """
        rows = {}
        for row, side, wanted in (('truth', 'gt', draw_gt), ('prediction', 'pred', draw_pred)):
            if wanted and data_sample is not None and side in data_sample:
                maps = data_sample.get(side)
                # A sample keeps its fields in no order: the table of tasks has one.
                rows[row] = {task: maps.get(task) for task in TASKS if task in maps}
        axes = None if data_sample is None else NormalsAxes.of(data_sample)
        return draw_multi_task(image, rows, title, axes, meta)
