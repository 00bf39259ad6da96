"""From the plugins of an encoder's config to the methods that fill its slots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mmvmt.adapters.base import SLOTS, Method, Site
from mmvmt.registry import ADAPTERS, class_of

if TYPE_CHECKING:
    from .adapted import AdaptedEncoder


def build_method(plugin: dict, encoder: AdaptedEncoder, tasks: Sequence[str]) -> Method:
    """Build the method of a plugin for the slots of an encoder.

    Args:
        plugin: ``cfg``, the method's config; ``stages``, whether each stage is filled, default all; ``position``, a
            slot or a list of slots, default the method's own.
        encoder: The encoder.
        tasks: Names of the tasks.

    Raises:
        ValueError: The plugin is no such dictionary, its method is unknown, or it matches no slot of the encoder, or
            the method reads what the encoder does not hand out.
    """
    plugin = dict(plugin)
    cfg = plugin.pop('cfg', None)
    if not isinstance(cfg, dict) or 'type' not in cfg:
        raise ValueError(f"a plugin needs cfg=dict(type=...), got {plugin or cfg!r}; e.g. cfg=dict(type='VMTAdapter')")
    blocks = encoder.stage_blocks()
    stages = tuple(plugin.pop('stages', (True,) * len(blocks)))
    position = plugin.pop('position', None)
    if plugin:
        raise ValueError(f'plugin {cfg["type"]!r} has unknown keys {sorted(plugin)}; known: cfg, stages, position')
    if len(stages) != len(blocks):
        raise ValueError(
            f'plugin {cfg["type"]!r} names {len(stages)} stages {stages}, but the encoder has {len(blocks)}'
        )
    method = class_of(ADAPTERS, cfg['type'])
    if method is None:
        raise ValueError(f'unknown adapter {cfg["type"]!r}; known: {", ".join(sorted(ADAPTERS.module_dict))}')
    slots = slots_of(method, position)
    if len(set(slots)) < len(slots):
        raise ValueError(f'plugin {cfg["type"]!r} names a position twice: {list(slots)}')
    for slot in slots:
        if slot not in SLOTS or slot not in method.positions:
            raise ValueError(
                f'plugin {cfg["type"]!r} matches no slot: it cannot fill position {slot!r}; '
                f'it fills {", ".join(method.positions) or "none"}, and blocks offer {", ".join(encoder.slots)}'
            )
        if slot not in encoder.slots:
            raise ValueError(
                f'plugin {cfg["type"]!r} matches no slot: blocks of {encoder.label} have no {slot!r}; '
                f'they offer {", ".join(encoder.slots) or "none"}'
            )
    if method.branches and not encoder.offers_branches:
        raise ValueError(
            f'{method.__name__} runs a tail per task beside the last block of each stage, which blocks of '
            f'{encoder.label} do not offer'
        )
    if method.wants_prompt_scores and not encoder.offers_prompt_scores:
        raise ValueError(
            f'{method.__name__} compares the prompts of tasks with the tokens of the image in the attention, and '
            f'blocks of {encoder.label} do not hand out these products'
        )
    sites = [
        Site(
            stage,
            index,
            slot,
            *encoder.slot_channels(stage, index, slot),
            leaves=stage in encoder.out_indices,
            last=index == len(blocks[stage]) - 1,
        )
        for stage, filled in enumerate(stages)
        if filled
        for index in range(len(blocks[stage]))
        for slot in slots
        if encoder.offers(stage, index, slot)
    ]
    if method.positions and not sites:
        raise ValueError(f'plugin {cfg["type"]!r} matches no slot: stages={stages}, position={position!r}')
    options = {key: value for key, value in cfg.items() if key != 'type'}
    built = method(sites=sites, tasks=tasks, **options)
    if built.reads_normed:
        for slot in slots:
            if slot not in encoder.normed_slots:
                raise ValueError(
                    f"{method.__name__} with input='normed' reads what the attention or the MLP of the branch {slot!r} "
                    f"reads, which blocks of {encoder.label} do not hand out; choose input='stream'"
                )
    return built


def slots_of(method: type[Method], position: str | Sequence[str] | None) -> tuple[str, ...]:
    """The slots that the entry ``position`` of a plugin means; None: those that the method fills by default."""
    if position is None:
        position = method.positions[:1] if method.default_positions is None else method.default_positions
    return (position,) if isinstance(position, str) else tuple(position)


def tapping(methods: Sequence[Method]) -> list[Method]:
    """Methods that make features of their own for the tasks."""
    return [method for method in methods if type(method).tap is not Method.tap]


def check_together(methods: Sequence[Method]) -> None:
    """Refuse methods that cannot stand in one encoder.

    Raises:
        ValueError: Two of them make the features of one stage or bring prompts into one block, or one makes features
            in a pass for all tasks and another needs a pass per task.
    """
    taps = tapping(methods)
    stages = [{site.stage for site in method.sites} for method in taps]
    if len(set().union(*stages)) < sum(map(len, stages)):
        names = ', '.join(type(method).__name__ for method in taps)
        raise ValueError(
            f'only one plugin can make the features of the tasks in a stage, got {names}; give each its own stages'
        )
    per_task = [method for method in methods if method.per_task]
    if per_task and taps:
        raise ValueError(
            f'{type(per_task[0]).__name__} runs the encoder once per task and cannot be combined with '
            f'{type(taps[0]).__name__}, which makes the features of all tasks in one pass'
        )
    prompted = set()
    for site in (site for method in methods for site in method.sites if site.slot == 'tokens'):
        if (site.stage, site.block) in prompted:
            raise ValueError(
                f'two plugins bring prompts into block {site.block} of stage {site.stage}; give each its stages'
            )
        prompted.add((site.stage, site.block))
