"""What stands between features and heads: a LayerNorm per level, and a neck of mmseg."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.model import BaseModule
from torch import Tensor, nn

from .fitting import Config, build_part, explained, freeze, in_mmseg, try_out


class Neck(BaseModule):
    """A LayerNorm per level, then a neck, such as mmseg's ``FPN``, ``Feature2Pyramid`` or ``MultiLevelNeck``.

    Args:
        in_channels: Widths of the features, finest first.
        neck: Config of the neck; its ``in_channels``, or ``embed_dim`` where all levels have one width, are those of
            the features. None: norms alone.
        norms: Whether there are norms. A pretrained encoder has none for features of tasks.
        key: Where the config stands, for errors.

    Raises:
        ValueError: The neck cannot be built, is made for other features, or gives something else than maps.
    """

    def __init__(
        self, in_channels: Sequence[int], neck: dict[str, Any] | None, norms: bool = True, key: str = 'neck'
    ) -> None:
        super().__init__()
        self.in_channels, self.key = tuple(in_channels), key
        self.norms = nn.ModuleList([nn.LayerNorm(width) if norms else nn.Identity() for width in self.in_channels])
        self.layers, self.cfg = None, None
        self.out_channels = self.in_channels
        if neck is not None:
            self.cfg = in_mmseg(neck)
            self.layers = self._build()
            self.out_channels = tuple(shape[1] for shape in try_out(self, self.in_channels, Neck.tried).shapes)

    def _build(self) -> nn.Module:
        widths, given = list(self.in_channels), self.cfg.get('in_channels')
        if given is not None and list(given) != widths:
            raise ValueError(
                f'{self.key}.in_channels is {given}, but the features have {widths} channels; leave it out, and it is '
                f'taken from them'
            )
        fitted: Config = dict(in_channels=widths)
        if len({*widths}) == 1:
            fitted['embed_dim'] = widths[0]
        # mmseg's necks ask for a list or for a tuple.
        return build_part(self.cfg, {name: v for name, v in fitted.items() if name not in self.cfg}, self.key)

    def keep_norms(self, levels: Sequence[int]) -> None:
        """Drop the norms of all other levels."""
        for index in range(len(self.norms)):
            if index not in levels:
                self.norms[index] = nn.Identity()

    def freeze_unread(self, outputs: Sequence[int]) -> None:
        """Freeze what only outputs depend on that nobody reads.

        Args:
            outputs: Indices of the outputs that are read.
        """
        trial = try_out(
            self, self.in_channels, lambda twin, features: [twin.tried(features)[index] for index in outputs]
        )
        freeze(self, trial.unread, self.key)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """``(B, C_i, H_i, W_i)`` per level to such maps, as many as the neck gives."""
        features = [
            x if isinstance(norm, nn.Identity) else norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            for norm, x in zip(self.norms, features)
        ]
        # As mmseg's encoders give them: some heads of mmseg rely on this memory order.
        features = [x.contiguous() for x in features]
        return tuple(features if self.layers is None else self.layers(features))

    def of_tasks(self, features: Mapping[str, Sequence[Tensor]]) -> dict[str, tuple[Tensor, ...]]:
        """The same by task; tasks that have the same maps share a run."""
        necked: dict[str, tuple[Tensor, ...]] = {}
        for task, maps in features.items():
            alike = (other for other in necked if all(a is b for a, b in zip(maps, features[other], strict=True)))
            twin = next(alike, None)
            necked[task] = self(maps) if twin is None else necked[twin]
        return necked

    def tried(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The same, with an error that says what does not fit.

        Raises:
            ValueError: The neck cannot be run, or gives something else than maps.
        """
        with explained(f'{self.key} ({type(self.layers).__name__}) cannot be run on features of {self.in_channels}'):
            maps = self(features)
        if not all(isinstance(x, Tensor) and x.dim() == 4 for x in maps):
            raise ValueError(f'{self.key} ({type(self.layers).__name__}) gives no maps, but {maps!r:.200}')
        return maps
