"""How often an encoder runs, and one run through its parts: once for all tasks as far as nothing depends on the task,
and from there once per task, task after task or stacked along the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.func import functional_call

from .plugins import tapping
from .slots import Fill, Fills, Size, Tails

if TYPE_CHECKING:
    from .adapted import AdaptedEncoder

Parameters = dict[str, Tensor]
"""What stands in for parameters of a module, by their names in it."""


class PartNames(NamedTuple):
    """Names of the parts of an encoder, which run alone and one after another.

    Args:
        embedding: The part that makes tokens of images.
        blocks: By stage and block.
        transitions: By stage; None where the next stage follows at once.
        inside: Modules of parts by their names in the encoder: the part, and the module's name inside of it. None: a
            part is one module, and its name is that in the encoder.
    """

    embedding: str
    blocks: dict[tuple[int, int], str]
    transitions: dict[int, str | None]
    inside: dict[str, tuple[str, str]] | None = None

    @classmethod
    def of(cls, encoder: AdaptedEncoder) -> PartNames:
        """The names in an encoder."""
        names = {id(module): name for name, module in encoder.named_modules()} | {id(None): None}
        stages = encoder.stage_blocks()
        return cls(
            names[id(encoder.embedding_part())],
            {
                (stage, index): names[id(block)]
                for stage, blocks in enumerate(stages)
                for index, block in enumerate(blocks)
            },
            {stage: names[id(encoder.transition_part(stage))] for stage in range(len(stages))},
        )

    def locate(self, parameter: str) -> tuple[str | None, str]:
        """The part that a parameter of the encoder belongs to, None: to none; and the parameter's name inside of it."""
        names = {self.embedding, *self.blocks.values(), *self.transitions.values()}
        inside = {name: (name, '') for name in names} if self.inside is None else self.inside
        module = parameter.rpartition('.')[0]
        while module and module not in inside:
            module = module.rpartition('.')[0]
        if not module:
            return None, parameter
        part, prefix = inside[module]
        rest = parameter[len(module) + 1 :]
        return part, f'{prefix}.{rest}' if prefix else rest


class Stream(NamedTuple):
    """State of the encoder between two blocks.

    Args:
        x: ``(B, H * W, C)``, the tokens.
        hw: Height and width of the map that they are.
        prompts: ``(B, P, C)``, what the block before made of its prompts; None where nothing is carried on.
        tapped: What the blocks of this stage handed out for its tap.
        taps: What left each stage so far: tokens, or tokens by task.
        sizes: Height and width of each.
    """

    x: Tensor
    hw: Size
    prompts: Tensor | None = None
    tapped: tuple[Tensor, ...] = ()
    taps: tuple[dict[str, Tensor] | Tensor, ...] = ()
    sizes: tuple[Size, ...] = ()

    def stacked(self, tasks: int) -> Stream:
        """The stream once for every task, along the batch."""
        prompts = None if self.prompts is None else self.prompts.repeat(tasks, 1, 1)
        return self._replace(x=self.x.repeat(tasks, 1, 1), prompts=prompts)

    def parts(self, tasks: int) -> list[Stream]:
        """The streams of stacked tasks."""
        prompts = [None] * tasks if self.prompts is None else self.prompts.chunk(tasks)
        return [self._replace(x=x, prompts=p) for x, p in zip(self.x.chunk(tasks), prompts)]


class Pass(NamedTuple):
    """One run of the encoder, for one task, for several stacked along the batch, or for none (``(None,)``).

    Args:
        tasks: The tasks.
        generated: For each method (None where it takes no part) what it generated, one entry per task.
        substitutes: For each task what stands in for parameters of the encoder, by the part that is run with it.
    """

    tasks: tuple[str | None, ...]
    generated: tuple[tuple[Any, ...] | None, ...]
    substitutes: tuple[dict[str, Parameters], ...]

    def of(self, index: int) -> Pass:
        """The pass of one of the tasks alone."""
        generated = tuple(
            given if given is None or len(given) < len(self.tasks) else given[index : index + 1]
            for given in self.generated
        )
        return Pass(self.tasks[index : index + 1], generated, self.substitutes[index : index + 1])

    def substituted(self, part: str | None) -> list[Parameters | None]:
        """What stands in for the parameters of a part of the encoder, for each task."""
        return [substitutes.get(part) for substitutes in self.substitutes]


def run_passes(encoder: AdaptedEncoder, image: Tensor, tasks: tuple[str, ...]) -> dict[str, Stream]:
    """Run an encoder as often as its methods need.

    Args:
        encoder: The encoder.
        image: ``(B, 3, H, W)``.
        tasks: Tasks whose features are wanted.

    Returns:
        The stream behind the last block for every task; what leaves the stages are its ``taps``.
    """
    generated = tuple(None if a.per_task else (a.generated(None),) for a in encoder.adapters)
    common = Pass((None,), generated, (_substitutes(encoder, None, generated),))
    blocks = encoder.block_indices()
    if not encoder.per_task:
        return dict.fromkeys(tasks, _run(encoder, _embed(encoder, image, common), blocks, common, tasks))

    of_task = [
        tuple(
            given if given is not None else (a.generated(task),) for a, given in zip(encoder.adapters, common.generated)
        )
        for task in tasks
    ]
    substitutes = [_substitutes(encoder, task, of) for task, of in zip(tasks, of_task)]
    first = _first_of_task(encoder, substitutes[0])
    substitutes = [_joined(common.substitutes[0], of) for of in substitutes]
    shared = None
    if first is not None:
        shared = _run(encoder, _embed(encoder, image, common), blocks[:first], common, tasks)
    rest = blocks[first or 0 :]

    if encoder.task_order == 'sequential':
        streams = {}
        for task, generated, substituted in zip(tasks, of_task, substitutes):
            run = Pass((task,), generated, (substituted,))
            stream = _embed(encoder, image, run) if shared is None else shared
            streams[task] = _run(encoder, stream, rest, run, (task,))
        return streams
    generated = tuple(
        given if given is not None else tuple(of[index][0] for of in of_task)
        for index, given in enumerate(common.generated)
    )
    run = Pass(tasks, generated, tuple(substitutes))
    stream = _embed(encoder, image, run) if shared is None else shared.stacked(len(tasks))
    kept = len(stream.taps)
    stream = _run(encoder, stream, rest, run, tasks)
    parts = [tap.chunk(len(tasks)) for tap in stream.taps[kept:]]
    return {
        task: stream._replace(taps=stream.taps[:kept] + tuple(part[index] for part in parts))
        for index, task in enumerate(tasks)
    }


def maps_of(encoder: AdaptedEncoder, streams: dict[str, Stream]) -> dict[str, tuple[Tensor, ...]]:
    """What leaves the stages, as maps for every task."""
    features, shared = {}, {}
    for task, stream in streams.items():
        maps = dict(shared)
        for index in encoder.out_indices:
            if index not in shared:
                tap = stream.taps[index]
                maps[index] = encoder.to_map(tap[task] if isinstance(tap, dict) else tap, stream.sizes[index])
        if not encoder.per_task:  # one stream, of which tasks have a map in common unless it left by task
            shared = {index: x for index, x in maps.items() if not isinstance(stream.taps[index], dict)}
        features[task] = tuple(maps[index] for index in encoder.out_indices)
    return features


def as_type(features: Any, dtype: torch.dtype) -> Any:
    """What leaves an encoder, in another type."""
    if isinstance(features, Tensor):
        return features.to(dtype)
    if isinstance(features, dict):
        return {task: as_type(maps, dtype) for task, maps in features.items()}
    return type(features)(as_type(feature, dtype) for feature in features)


def _substitutes(encoder: AdaptedEncoder, task: str | None, generated: Sequence[Any]) -> dict[str, Parameters]:
    """What stands in for parameters in the pass of a task, by the part that is run with it; None: in all passes.

    Raises:
        ValueError: Two methods have copies of the same parameter, or one is none of a part of the encoder.
    """
    parts: dict[str, Parameters] = {}
    for adapter, given in zip(encoder.adapters, generated):
        if adapter.per_task != (task is not None):
            continue
        for name, tensor in adapter.substitutes(encoder, task, given[0]).items():
            part, parameter = encoder.part_names.locate(name)
            if part is None:
                raise ValueError(f'{type(adapter).__name__} cannot copy {name!r} per task')
            parts = _joined(parts, {part: {parameter: tensor}})
    return parts


def _joined(first: dict[str, Parameters], second: dict[str, Parameters]) -> dict[str, Parameters]:
    """Both sets of what stands in for parameters.

    Raises:
        ValueError: They have a parameter in common.
    """
    joined = dict(first)
    for part, parameters in second.items():
        for name in parameters:
            if name in joined.get(part, ()):
                raise ValueError(f"two plugins have copies of '{part}.{name}'; only one can")
        joined[part] = joined.get(part, {}) | parameters
    return joined


def _first_of_task(encoder: AdaptedEncoder, substitutes: dict[str, Parameters]) -> int | None:
    """Position of the first block whose outputs depend on the task; None if even the tokens do."""
    parts, blocks = encoder.part_names, encoder.block_indices()
    if parts.embedding in substitutes:
        return None
    for position, (stage, block) in enumerate(blocks):
        filled = any(encoder.adapters[index].per_task for index, _ in encoder.filled.get((stage, block), ()))
        last = block == len(encoder.stage_blocks()[stage]) - 1
        passed_on = last and parts.transitions[stage] in substitutes
        if filled or passed_on or parts.blocks[stage, block] in substitutes:
            return position
    return len(blocks)


def _embed(encoder: AdaptedEncoder, image: Tensor, run: Pass) -> Stream:
    """Tokens of the images, for every task of the pass if they depend on it."""
    part, substituted = encoder.embedding_part(), run.substituted(encoder.part_names.embedding)
    if any(substituted):
        embedded = [_run_part(part, of_task, image) for of_task in substituted]
        x, hw = torch.cat([tokens for tokens, _ in embedded]), embedded[0][1]
    else:
        x, hw = part(image)
    return Stream(encoder.enter(x), _numbers(hw))


def _run(
    encoder: AdaptedEncoder, stream: Stream, blocks: Sequence[tuple[int, int]], run: Pass, tasks: tuple[str, ...]
) -> Stream:
    """Take the stream through some blocks; at a stage's end, tap the features of the tasks and go to the next stage."""
    for stage, block in blocks:
        x, prompts, tapped = _run_block(encoder, stage, block, stream, run, tasks)
        hw, tapped = encoder.size_behind(stage, block, stream.hw), stream.tapped + tuple(tapped)
        stream = stream._replace(x=x, hw=hw, prompts=prompts, tapped=tapped)
        if block == len(encoder.stage_blocks()[stage]) - 1:
            stream = _leave_stage(encoder, stage, stream, run, tasks)
    return stream


def _fills(encoder: AdaptedEncoder, stage: int, block: int, run: Pass) -> Fills:
    """What fills the slots of a block in a pass."""
    fills: Fills = {}
    for index, site in encoder.filled.get((stage, block), ()):
        adapter, generated = encoder.adapters[index], run.generated[index]
        tasks = run.tasks if adapter.per_task else (None,)
        fills.setdefault(site.slot, []).append(Fill(adapter, site, tasks, generated))
    return fills


def _tails(
    encoder: AdaptedEncoder, stage: int, block: int, run: Pass, tasks: tuple[str, ...]
) -> tuple[Any, ...] | None:
    """Arguments of the tails that tasks have through a block; None: they have none."""
    for index, adapter in enumerate(encoder.adapters):
        sites = {s.slot: s for s in adapter.sites if (s.stage, s.block) == (stage, block) and s.last and s.leaves}
        if adapter.branches and sites:
            (generated,) = run.generated[index]
            return adapter, sites, tasks, generated, encoder.task_order == 'stacked'
    return None


def _run_block(
    encoder: AdaptedEncoder, stage: int, block: int, stream: Stream, run: Pass, tasks: tuple[str, ...]
) -> tuple[Tensor, Tensor | None, Sequence[Tensor]]:
    """Outputs of a block: the stream, the prompts that are carried on, and what goes to the stage's tap."""
    module, substituted = encoder.stage_blocks()[stage][block], run.substituted(encoder.part_names.blocks[stage, block])
    if len(run.tasks) > 1 and any(substituted):
        # Every task has its own frozen layers here: they cannot share one batch.
        streams = stream.parts(len(run.tasks))
        parts = [_run_block(encoder, stage, block, part, run.of(index), tasks) for index, part in enumerate(streams)]
        x, prompts, _ = zip(*parts)
        return torch.cat(x), None if prompts[0] is None else torch.cat(prompts), ()

    fills = _fills(encoder, stage, block, run)
    prompts = fills['tokens'][0].prompts(stream.prompts) if 'tokens' in fills else None
    arguments = (stream.x, stream.hw, fills, prompts)
    of_tasks = _tails(encoder, stage, block, run, tasks)

    def forward(*args: Any) -> tuple[Tensor, Tensor | None, list[Tensor]]:
        # Inside of what is checkpointed, so that the recomputation sees the substitutes too, and has its own tails.
        tails = () if of_tasks is None else (Tails(*of_tasks),)
        return _run_part(module, substituted[0], *args, *tails)

    if getattr(module, 'with_cp', False) and torch.is_grad_enabled():
        return torch.utils.checkpoint.checkpoint(forward, *arguments, use_reentrant=False)
    return forward(*arguments)


def _leave_stage(encoder: AdaptedEncoder, stage: int, stream: Stream, run: Pass, tasks: tuple[str, ...]) -> Stream:
    """Tap what leaves a stage, and go to the next one."""
    x, hw, prompts = stream.x, stream.hw, stream.prompts
    tap = None
    if stage in encoder.out_indices:
        for adapter in tapping(encoder.adapters):
            tap = adapter.tap(stage, x, stream.tapped, tasks) or tap
    part, substituted = encoder.transition_part(stage), run.substituted(encoder.part_names.transitions[stage])
    if part is None:
        return Stream(x, hw, prompts, (), stream.taps + (x if tap is None else tap,), stream.sizes + (hw,))

    last = len(encoder.stage_blocks()[stage]) - 1

    def arguments(run: Pass) -> tuple[Fills, ...]:
        fills = _fills(encoder, stage, last, run)
        return (fills,) if 'downsample' in fills else ()

    def transition(x: Tensor, hw: Size) -> tuple[Tensor, Size]:
        if not any(substituted):
            return part(x, hw, *arguments(run))
        # One task's batch is not cut: in an exported graph its size is a symbol.
        chunks = x.chunk(len(substituted)) if len(substituted) > 1 else (x,)
        passed = [
            _run_part(part, of_task, chunk, hw, *arguments(run.of(index)))
            for index, (chunk, of_task) in enumerate(zip(chunks, substituted))
        ]
        return torch.cat([tokens for tokens, _ in passed]), passed[0][1]

    x, behind = transition(x, hw)
    behind = _numbers(behind)
    left, size = (stream.x if tap is None else tap), hw
    if encoder.features_after_merging:
        left, size = x, behind
        if tap is not None:
            left = _passed_on(tap, lambda tokens: transition(tokens, hw)[0], encoder.task_order)
    taps, sizes = stream.taps + (left,), stream.sizes + (size,)
    if prompts is not None:
        (prompting,) = (filled.method for filled in _fills(encoder, stage, last, run)['tokens'])
        prompts = prompting.merge_prompts(stage, prompts, lambda p: encoder.prompts_behind(stage, p, transition))
    return Stream(x, behind, prompts, (), taps, sizes)


def _passed_on(tap: dict[str, Tensor], transition: Callable[[Tensor], Tensor], order: str) -> dict[str, Tensor]:
    """What left a stage by task behind its transition: task after task, or all tasks along the batch."""
    if order == 'sequential' or len(tap) == 1:
        return {task: transition(tokens) for task, tokens in tap.items()}
    return dict(zip(tap, transition(torch.cat(list(tap.values()))).chunk(len(tap))))


def _run_part(part: nn.Module, substituted: Parameters | None, *arguments: Any) -> Any:
    """Run a part of the encoder with what stands in for its parameters."""
    if not substituted:
        return part(*arguments)
    if not torch.jit.is_tracing():
        return functional_call(part, substituted, arguments)
    # PyTorch refuses to do that while torch.jit traces.
    owners = [(part.get_submodule(name.rpartition('.')[0]), name.rpartition('.')[2]) for name in substituted]
    kept = [owner._parameters[name] for owner, name in owners]
    try:
        for (owner, name), tensor in zip(owners, substituted.values()):
            owner._parameters[name] = tensor
        return part(*arguments)
    finally:
        for (owner, name), parameter in zip(owners, kept):
            owner._parameters[name] = parameter


def _numbers(hw: Sequence[int | Tensor]) -> Size:
    """A size as numbers. While ``torch.jit`` traces it is made of tensors; the trace holds for this size alone."""
    return tuple(int(edge) for edge in hw) if torch.jit.is_tracing() else tuple(hw)
