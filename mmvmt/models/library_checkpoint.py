"""Weights of encoders under the names of their own library: mmseg, mmpretrain or timm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mmengine.logging import print_log
from torch import Tensor

from mmvmt.registry import type_name

from .checkpoint import PRETRAINED, read_checkpoint, state_dict_of
from .weight_checks import check_tensors

if TYPE_CHECKING:
    from .backbones.hooked import AdaptedBackbone

_REMEDY = 'name a local file with --cfg-options model.backbone.init_cfg.checkpoint=PATH'


def load_library_checkpoint(encoder: AdaptedBackbone, init_cfg: Mapping[str, Any]) -> None:
    """Load encoder weights and make sure that every one of them was there, and no other.

    The encoder may stand alone or in a whole model. What stands beside it is left out; output norms are loaded if both
    sides have them. Position embeddings of another size are interpolated as the encoder's own library does.

    Args:
        encoder: The encoder.
        init_cfg: ``dict(type='Pretrained', checkpoint=PATH_OR_URL)``; with ``trusted=True`` the file may execute
            what it holds.

    Raises:
        FileNotFoundError: The checkpoint is missing.
        ValueError: It is unreadable, of another encoder, or holds what no weight can be.
    """
    source = init_cfg.get('checkpoint')
    if type_name(init_cfg, 'Pretrained') not in PRETRAINED or not isinstance(source, str):
        raise ValueError(
            f'init_cfg of {encoder.label} must be dict(type="Pretrained", checkpoint=PATH_OR_URL) or None, '
            f'got {dict(init_cfg)!r}'
        )
    what, layout = f'checkpoint {source!r}', encoder.layout
    weights = state_dict_of(read_checkpoint(source, init_cfg.get('trusted', False), _REMEDY))
    own = encoder.own_parameters()
    prefix = _prefix(weights, list(own), what)
    weights = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    try:
        weights = layout.prepare(weights)
    except (KeyError, RuntimeError) as error:
        # What libraries do with names and shapes that they do not expect.
        library = encoder.label.partition('.')[0]
        raise ValueError(
            f'{what} is of another encoder: {library} cannot convert its names for {encoder.label} ({error!r})'
        ) from None
    tops = {name.partition('.')[0] for name in own}
    weights = {name: value for name, value in weights.items() if name.partition('.')[0] in tops | _norm_tops(encoder)}
    check_tensors(weights, what)

    missing = [name for name in own if name not in weights]
    if missing:
        raise ValueError(
            f'{what} is not of this encoder, {encoder.label}: {len(missing)} of its {len(own)} weights are missing, '
            f'e.g. {missing[0]!r} (the file has e.g. {next(iter(weights), "nothing of it")!r}); names of '
            f'{encoder.label.partition(".")[0]} are expected'
        )
    norms = {
        f'{name}.{key}': p
        for stage, norm in encoder._output_norms().items()
        for name in (layout.leaving_norms[stage],)
        for key, p in norm.named_parameters()
    }
    buffers = {name for name, _ in encoder.named_buffers()}
    gone = tuple(f'{name}.' for name in (*layout.left_out, *layout.leaving_norms.values()))
    known = own.keys() | norms.keys() | buffers
    besides = [name for name in weights if name not in known and not name.startswith(gone)]
    if besides:
        raise ValueError(
            f'{what} is of another encoder: {len(besides)} weights in it have no place in this one, {encoder.label}, '
            f'e.g. {besides[0]!r}. Name another file, or change the encoder'
        )
    chosen = own | {name: p for name, p in norms.items() if name in weights}
    for name, value in chosen.items():
        if weights[name].shape != value.shape:
            raise ValueError(
                f'{what} is of another encoder size: {name!r} has shape {tuple(weights[name].shape)}, this encoder '
                f'needs {tuple(value.shape)}'
            )
    encoder.load_state_dict({name: weights[name] for name in chosen}, strict=False)
    print_log(f'Loaded {len(chosen)} encoder weights from {source}', logger='current')


def _prefix(weights: Mapping[str, Tensor], own: list[str], what: str) -> str:
    """What stands in front of the names of the encoder in a whole model.

    Raises:
        ValueError: There are several encoders.
    """
    # The longest name says the most of where it belongs.
    name = max(own, key=len)
    found = {key.removesuffix(name) for key in weights if key == name or key.endswith(f'.{name}')}
    if '' in found or not found:
        return ''
    if len(found) > 1 and 'backbone.' not in found:
        raise ValueError(
            f'{what} has several encoders, under {", ".join(map(repr, sorted(found)))}; write the weights of one of '
            f'them into a file of their own'
        )
    return 'backbone.' if 'backbone.' in found else found.pop()


def _norm_tops(encoder: AdaptedBackbone) -> set[str]:
    return {encoder.layout.leaving_norms[stage].partition('.')[0] for stage in encoder._output_norms()}
