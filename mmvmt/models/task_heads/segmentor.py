"""Any decode head of mmseg as the head of a task, with its neck and its auxiliary heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmseg.models.decode_heads import DAHead, EncHead, IterativeDecodeHead, VPDDepthHead
from mmseg.models.decode_heads.cascade_decode_head import BaseCascadeDecodeHead
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn

from mmvmt.registry import MODELS
from mmvmt.structures import Task

from .base import Logits, TaskHead, upsample
from .fitting import Config, build_part, class_named, explained, freeze, in_mmseg, selected, try_out
from .neck import Neck

_SUMS = (BaseDecodeHead, DAHead, EncHead, IterativeDecodeHead, VPDDepthHead)
"""Heads whose own loss is the sum of the losses of all maps that they give in training, which is taken here too."""

_LAST_PREDICTS = (IterativeDecodeHead,)
"""Heads of which, of several maps, the last one is the prediction."""


@MODELS.register_module()
class SegmentorHead(TaskHead):
    """A decode head of mmseg, for any kind of map: its classifier gets as many channels as the output has.

    ``decode_head`` is written as in mmseg. What the features and the task determine may be left out: ``in_channels``,
    ``num_classes`` and ``out_channels``; if it is there, it has to agree. ``in_index`` is -1 by default, as in mmseg,
    and an index or a list of indices of levels. ``align_corners`` holds for the logits too.

    Losses are those of the output. A ``loss_decode`` or ``sampler`` of the decode head are its losses and its sampler,
    and are computed as mmseg does: copied from a config of mmseg, a head learns as it did there. In training, heads
    that give several maps (DAHead, K-Net's) learn by all of them, with equal weight.

    Auxiliary heads, mmseg's ``auxiliary_head``, learn the same labels, and are not run in evaluation. The weight of
    one is the ``loss_weight`` in its ``loss_decode``; without one it learns by the losses of the output, times
    ``auxiliary_weight``.

    A decode head has to be a ``BaseDecodeHead`` that gives a map by itself. Those that need another head's output
    (OCRHead, PointHead), that learn by losses of their own making (STDCHead, PIDHead, DDRHead, SideAdapterCLIPHead),
    or that are none (Mask2FormerHead), are refused. EncHead needs ``use_se_loss=False``, DPTHead the
    ``readout_type='ignore'``.

    Args:
        in_channels: Widths of the features, finest first.
        output: Config of a :class:`TaskOutput`.
        decode_head: Config of a decode head of mmseg, such as ``dict(type='mmseg.UPerHead', channels=512,
            in_index=[0, 1, 2, 3])``.
        auxiliary_head: Config of a further one, or a list.
        auxiliary_weight: Weight of auxiliary heads without a ``loss_decode``.
        neck: Config of a neck in front of all of these, see :class:`Neck`.
        norms: Whether the features pass a LayerNorm per level first.
        init_cfg: As in mmengine.

    Raises:
        ValueError: A part is no head or neck that can be used here, is made for other features or another task, or
            cannot be built; or a loss is given twice.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        output: dict[str, Any],
        decode_head: dict[str, Any],
        auxiliary_head: dict[str, Any] | Sequence[dict[str, Any]] | None = None,
        auxiliary_weight: float = 0.4,
        neck: dict[str, Any] | None = None,
        norms: bool = True,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        auxiliary = [] if auxiliary_head is None else auxiliary_head
        auxiliary = [auxiliary] if isinstance(auxiliary, Mapping) else list(auxiliary)
        decode_head = _usable(decode_head, 'decode_head')
        output = _with_losses(output, decode_head, 'decode_head')
        super().__init__(in_channels, output, init_cfg)
        self.neck = Neck(self.in_channels, neck, norms)
        self.decode_head = self._build(decode_head, 'decode_head')
        self.align_corners = self.decode_head.align_corners
        self.auxiliary_heads, self.auxiliary_outputs = nn.ModuleList(), nn.ModuleList()
        self._auxiliary_weights = []
        for index, cfg in enumerate(auxiliary):
            key = 'auxiliary_head' if len(auxiliary) == 1 else f'auxiliary_head[{index}]'
            cfg = _usable(cfg, key)
            own = 'loss_decode' in cfg
            without = {name: value for name, value in output.items() if name != 'loss' or not own}
            self.auxiliary_outputs.append(MODELS.build(_with_losses(without, cfg, key)))
            self.auxiliary_heads.append(self._build(cfg, key))
            self._auxiliary_weights.append(1.0 if own else auxiliary_weight)
        if neck is not None:
            self.configs['neck'] = self.neck.cfg
        self._try_out()

    def _build(self, cfg: Config, key: str) -> BaseDecodeHead:
        channels, output = self.output.channels, type(self.output).__name__
        for name in ('num_classes', 'out_channels'):
            # mmseg counts two classes where one logit tells them apart.
            if cfg.get(name) not in (None, channels, 2 if (name, channels) == ('num_classes', 1) else None):
                raise ValueError(
                    f'{key}.{name} is {cfg[name]}, but the output ({output}) has {channels} channels; leave it out, '
                    f'and it is taken from there'
                )
            cfg.pop(name, None)
        if cfg.pop('ignore_index', None) not in (None, self.output.task.ignore):
            raise ValueError(f'{key}.ignore_index must be that of the task, {self.output.task.ignore}; leave it out')
        if cfg.pop('threshold', None) is not None:
            raise ValueError(f'{key}.threshold has no place here: {output} predicts, {key} gives logits; leave it out')
        fitted = selected(cfg, self.neck.out_channels, key) | dict(num_classes=channels, out_channels=channels)
        # What is not used, but mmseg warns of its defaults.
        fitted |= dict(loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True))
        fitted |= dict(threshold=0.5) if channels == 1 else {}
        head = build_part(cfg, fitted, key)
        readout = getattr(getattr(head, 'reassemble_blocks', None), 'readout_type', 'ignore')
        if readout != 'ignore':
            raise ValueError(
                f"{key}.readout_type is {readout!r}, which reads class tokens, and features are maps; set 'ignore'"
            )
        # The losses are those of the outputs.
        if 'loss_decode' in head._modules:
            del head.loss_decode
        self.configs[key] = dict(cfg, in_index=fitted['in_index'])
        return head

    def _try_out(self) -> None:
        """See that all parts fit the features and each other, and leave out of them what nothing reads."""
        trial = try_out(self, self.in_channels, SegmentorHead._tried)
        self._compiled = trial.compiled
        self._levels, self._count = trial.levels, len(trial.shapes) - len(self.auxiliary_heads)
        self.neck.keep_norms(trial.levels)
        there = dict(self.named_parameters())
        freeze(self, [name for name in trial.unread if name in there], f'{type(self.decode_head).__name__} of a task')

    def _tried(self, features: Sequence[Tensor]) -> list[Tensor]:
        """All maps that learn, with an error that says what does not fit."""
        features = self.neck(features) if self.neck.layers is None else self.neck.tried(features)
        found = []
        for key, head in self._heads():
            name = f'{key} ({type(head).__name__})'
            with explained(f'{name} cannot be run on features of {self.neck.out_channels} channels'):
                predicted = _maps(head, features)
                # What else is in training mode would change statistics.
                head.training = True
                maps = _maps(head, features)
            for x in (*predicted[:1], *maps):
                if x.dim() != 4 or x.shape[1] != self.output.channels:
                    raise ValueError(
                        f'{name} gives {tuple(x.shape)} for {len(x)} images, and the output '
                        f'({type(self.output).__name__}) needs maps of {self.output.channels} channels alone'
                    )
            found += maps if head is self.decode_head else maps[:1]
        return found

    def _heads(self) -> list[tuple[str, BaseDecodeHead]]:
        """All heads by the keys of their configs, the decode head first."""
        keys = [key for key in self.configs if key != 'neck']
        return list(zip(keys, (self.decode_head, *self.auxiliary_heads), strict=True))

    def bind(self, task: Task) -> None:
        for output in (self.output, *self.auxiliary_outputs):
            output.bind(task)

    def graph_obstacle(self) -> str | None:
        if self._compiled:
            return f"{type(self.decode_head).__name__}: graphs do not have mmcv's compiled operators"
        if any(getattr(module, 'rand_init', False) for module in self.modules()):
            return f'{type(self.decode_head).__name__}: it computes with random numbers'
        return None

    @property
    def levels_read(self) -> tuple[int, ...]:
        return self._levels

    def forward(self, features: Sequence[Tensor]) -> Logits:
        """Logits of a task.

        Args:
            features: One ``(B, C_i, H_i, W_i)`` per level, finest first.

        Returns:
            ``(B, output.channels, H, W)`` at the resolution of the decode head. In training, where more than these
            learn, a tuple: all maps of the decode head, then one of each auxiliary head.
        """
        features = self.neck(features)
        maps = _maps(self.decode_head, features)
        if not self.training:
            return maps[0]
        maps += tuple(_maps(head, features)[0] for head in self.auxiliary_heads)
        return maps if len(maps) > 1 else maps[0]

    def losses(self, logits: Logits, target: Tensor) -> dict[str, Tensor]:
        """Losses by name; of several maps those of the first one have mmseg's names, those of auxiliary heads end in
        ``_aux`` (``_aux0``, ``_aux1``)."""
        maps = logits if isinstance(logits, tuple) else (logits,)
        values = {}
        for (ending, output, align_corners, weight), of_map in zip(self._learning(), maps):
            resized = upsample(of_map.contiguous(), target.shape[2:], align_corners)
            values |= {f'{name}{ending}': weight * loss for name, loss in output.losses(resized, target).items()}
        return values

    def _learning(self) -> list[tuple[str, nn.Module, bool, float]]:
        """Of every map that learns: the end of the names of its losses, its output, how it is resized, and a weight."""
        learning = [(f'_{n}' if n else '', self.output, self.align_corners, 1.0) for n in range(self._count)]
        parts = zip(self.auxiliary_heads, self.auxiliary_outputs, self._auxiliary_weights)
        for index, (head, output, weight) in enumerate(parts):
            ending = '_aux' if len(self.auxiliary_heads) == 1 else f'_aux{index}'
            learning.append((ending, output, head.align_corners, weight))
        return learning


def _usable(cfg: Mapping[str, Any], key: str) -> Config:
    """A config of a decode head, with a scope, if heads of its class can be used here."""
    if not isinstance(cfg, Mapping):
        raise ValueError(f"{key} must be the config of a head, such as dict(type='mmseg.FCNHead'), got {cfg!r}")
    cfg = in_mmseg(cfg)
    kind, reason = class_named(cfg, key), None
    if not issubclass(kind, BaseDecodeHead):
        reason = 'is no BaseDecodeHead of mmseg, which gives logits per pixel'
    elif issubclass(kind, BaseCascadeDecodeHead):
        reason = 'works on the output of another head'
    elif kind.loss_by_feat not in [head.loss_by_feat for head in _SUMS]:
        reason = 'learns by a loss that it makes itself, from more than its logits and the labels of the task'
    if reason is not None:
        raise ValueError(f'{key}.type cannot be {kind.__name__}: it {reason}')
    return cfg


def _with_losses(output: Mapping[str, Any], cfg: Config, key: str) -> Config:
    """Config of an output with the losses and the sampler of a decode head, which are taken out of its config."""
    output = dict(output)
    for theirs, ours in (('loss_decode', 'loss'), ('sampler', 'sampler')):
        given = cfg.pop(theirs, None)
        if given is None:
            continue
        if output.get(ours) is not None:
            raise ValueError(
                f'{key}.{theirs} and output.{ours} are both given, and are the same; leave one of them out'
            )
        if theirs == 'loss_decode':
            given = in_mmseg(given) if isinstance(given, Mapping) else [in_mmseg(loss) for loss in given]
        output[ours] = given
    return output


def _maps(head: BaseDecodeHead, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """What a decode head gives, the prediction first."""
    if hasattr(head, 'reassemble_blocks'):  # it asks for class tokens, which it does not read
        features = [(x, None) for x in features]
    maps = head(features)
    if isinstance(maps, Tensor):
        return (maps,)
    return tuple(maps)[::-1] if isinstance(head, _LAST_PREDICTS) else tuple(maps)
