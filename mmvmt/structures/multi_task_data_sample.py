"""The sample that travels from pipeline to model to evaluation."""

from __future__ import annotations

from mmengine.structures import BaseDataElement, PixelData


class MultiTaskDataSample(BaseDataElement):
    """Ground truth and predictions of one image, one map per task.

    Both are :class:`mmengine.structures.PixelData` whose fields are task names:

    - ``sample.gt.semseg``, ``human_parts``, ``saliency``, ``edge``: ``(1, H, W)`` uint8; ``normals``: ``(3, H, W)``
      float32; ``depth``: ``(1, H, W)`` float32. See :class:`mmvmt.structures.Task` for the other kinds, and for what
      unknown pixels hold.
    - ``sample.pred.semseg``, ``human_parts``: ``(1, H, W)`` uint8 class indices; ``saliency``, ``edge``: ``(1, H, W)``
      float32 probabilities; ``normals``: ``(3, H, W)`` float32 unit vectors; ``depth``: ``(1, H, W)`` float32 metres;
      values ``(C, H, W)`` float32.

    Meta information: ``img_id``, ``img_path``, ``ori_shape``, ``img_shape``, ``sample_idx``, and what transforms add.
    """

    @property
    def gt(self) -> PixelData:
        """Ground truth, one field per task."""
        return self._gt

    @gt.setter
    def gt(self, value: PixelData) -> None:
        self.set_field(value, '_gt', dtype=PixelData)

    @gt.deleter
    def gt(self) -> None:
        del self._gt

    @property
    def pred(self) -> PixelData:
        """Predictions, one field per task."""
        return self._pred

    @pred.setter
    def pred(self, value: PixelData) -> None:
        self.set_field(value, '_pred', dtype=PixelData)

    @pred.deleter
    def pred(self) -> None:
        del self._pred
