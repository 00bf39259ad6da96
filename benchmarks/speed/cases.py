"""What the benchmark of speed runs: models of ours, what they are compared with, and their training steps."""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.structures import PixelData
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from mmvmt.models import MultiTaskEncoderDecoder
from mmvmt.registry import MODELS
from mmvmt.structures import IGNORE_INDEX, TASKS, MultiTaskDataSample

from .measurement import Run, alternate

FOUR_TASKS = ('semseg', 'human_parts', 'saliency', 'normals')
FIFTH_TASK = 'edge'
ENCODER, WHOLE = 'encoder', 'whole model'

TOLERANCE = 1e-4
"""Largest difference of outputs that count as equal."""


@dataclass(frozen=True)
class Settings:
    """How large everything is, and how long it is measured."""

    device: str = 'cpu'
    seed: int = 0  # of weights, inputs and scenes
    threads: int = 1  # of PyTorch
    image: int = 448  # side of the square images in pixels
    task_image: int = 224  # the same where up to 32 tasks are run
    batch: int = 2
    encoders: tuple[tuple[str, int], ...] = (('t', 448), ('s', 224), ('b', 224))  # and the images they are compared at
    shrunk: dict[str, Any] = field(default_factory=dict)  # replaces entries of an encoder's config
    channels: int | None = None  # width of the heads; None: that of the config
    counts: tuple[int, ...] = (1, 2, 4, 8, 16, 32)  # numbers of tasks for methods that run the encoder once
    counts_per_task: tuple[int, ...] = (1, 4, 16)  # and for those that run it once per task
    scenes: int = 24  # rendered images
    scene_size: int = 512  # their side in pixels
    batches: tuple[int, ...] = (1, 8)  # of inference
    least: int = 3  # rounds of every comparison at least
    least_tasks: int = 2  # the same over numbers of tasks, which takes long
    seconds: float = 12.0  # of a comparison; some take a multiple of it
    compile_seconds: float = 1800.0  # for all compiled models together, compilation included


QUICK: dict[str, Any] = dict(
    image=64,
    task_image=64,
    encoders=(('t', 64),),
    shrunk=dict(embed_dims=40, depths=(1, 1, 2, 1), num_heads=(1, 2, 2, 4), window_size=4),
    channels=16,
    counts=(1, 4, 16),
    counts_per_task=(1, 16),
    scenes=4,
    scene_size=64,
    batches=(1, 2),
    least=2,
    seconds=0.3,
)
"""Sizes of ``--quick``: everything runs, and no figure means anything."""


@functools.cache
def read_config(config: Path) -> Config:
    """A config file."""
    return Config.fromfile(config)


def encoder_name(size: str, settings: Settings) -> str:
    """Name of an encoder of a size, in rows."""
    return f'{"shrunk " if settings.shrunk else ""}Swin-{size.upper()}'


def encoder_config(config: Path, settings: Settings) -> dict[str, Any]:
    """Arguments of the Swin of a config, random weights instead of a checkpoint's."""
    backbone = model_config(config, settings)['backbone']
    return {key: value for key, value in backbone.items() if key not in ('type', 'plugins')}


def model_config(config: Path, settings: Settings, **backbone: Any) -> dict[str, Any]:
    """Config of a model, random weights instead of a checkpoint's."""
    cfg = copy.deepcopy(read_config(config).model.to_dict())
    cfg['backbone'].pop('init_cfg', None)
    cfg['backbone'].update(settings.shrunk | backbone)
    if settings.channels is not None:
        for head in cfg.get('heads', {}).values():
            head['channels'] = settings.channels
    return cfg


def build_model(config: Path, settings: Settings, fifth: bool = False, **backbone: Any) -> MultiTaskEncoderDecoder:
    """The model of a config in training mode, with a fifth task if asked for."""
    torch.manual_seed(settings.seed)
    cfg = model_config(config, settings, **backbone)
    if fifth:
        loss = dict(type='mmvmt.WeightedBCELoss', positive_weight=0.95, loss_weight=50.0)
        output = dict(type='mmvmt.ProbabilityOutput', loss=loss)
        cfg['heads'][FIFTH_TASK] = cfg['heads']['saliency'] | dict(output=output)
    return MODELS.build(cfg).to(settings.device).train()


def task_names(count: int) -> tuple[str, ...]:
    """Names of any number of tasks: the four tasks, then the same again as ``semseg-1``, ``human_parts-1``, ..."""
    turns = -(-count // len(FOUR_TASKS))
    names = [f'{task}-{turn}' if turn else task for turn in range(turns) for task in FOUR_TASKS]
    return tuple(names[:count])


def build_with_tasks(config: Path, count: int, settings: Settings) -> MultiTaskEncoderDecoder:
    """The model of a config with more tasks than there are names for: those of :func:`task_names`.

    A model accepts known names only when it is built; its encoder gets further tasks by any name later.
    """
    torch.manual_seed(settings.seed)
    cfg, names = model_config(config, settings), task_names(count)
    known = names[: len(FOUR_TASKS)]
    model = MODELS.build(cfg | dict(heads={name: cfg['heads'][name] for name in known}))
    for name in names[len(known) :]:
        model.backbone.add_task(name)
        model.heads[name] = MODELS.build(cfg['heads'][name.split('-')[0]] | dict(in_channels=widths(model.backbone)))
    model.tasks = model.active_tasks = model.trained_tasks = names
    return model.to(settings.device).train()


def widths(encoder: nn.Module) -> list[int]:
    """Widths of the maps that leave an encoder."""
    return [encoder.num_features[index] for index in encoder.out_indices]


def random_image(settings: Settings, side: int, batch: int | None = None) -> Tensor:
    """A normalised batch of images of noise."""
    generator = torch.Generator().manual_seed(settings.seed)
    return torch.randn(batch or settings.batch, 3, side, side, generator=generator).to(settings.device)


def random_maps(channels: Sequence[int], settings: Settings, side: int) -> list[Tensor]:
    """Random maps in the sizes and the memory order of an encoder's, for an image of a side."""
    generator = torch.Generator().manual_seed(settings.seed)
    sides = [side // 2 ** (level + 2) for level in range(len(channels))]
    tokens = [torch.randn(settings.batch, s, s, c, generator=generator) for s, c in zip(sides, channels)]
    return [x.to(settings.device).permute(0, 3, 1, 2) for x in tokens]


def random_labels(task: str, channels: int, side: int, generator: torch.Generator) -> Tensor:
    """A random label map ``(C, side, side)``, a tenth of it unknown."""
    known = torch.rand(1, side, side, generator=generator) > 0.1
    kind = TASKS[task].kind
    if kind == 'vectors':
        return F.normalize(torch.randn(3, side, side, generator=generator), dim=0) * known
    classes = channels if kind == 'classes' else 2
    labels = torch.randint(classes, (1, side, side), generator=generator)
    return torch.where(known, labels, IGNORE_INDEX).to(torch.uint8)


def output_channels(heads: nn.ModuleDict) -> dict[str, int]:
    """Channels of the logits of every task."""
    return {task: head.output.channels for task, head in heads.items()}


def random_samples(channels: dict[str, int], settings: Settings, side: int) -> list[MultiTaskDataSample]:
    """Samples with random labels of ``{task: channels of its logits}``; a task may be one of :func:`task_names`."""
    generator = torch.Generator().manual_seed(settings.seed)
    samples = []
    for index in range(settings.batch):
        sample = MultiTaskDataSample(metainfo=dict(img_id=f'noise_{index}', img_shape=(side, side)))
        sample.gt = PixelData()
        for task, count in channels.items():
            labels = random_labels(task.split('-')[0], count, side, generator)
            sample.gt.set_field(labels.to(settings.device), task)
        samples.append(sample)
    return samples


def stacked(samples: Sequence[MultiTaskDataSample], task: str) -> Tensor:
    """Label maps of a batch."""
    return torch.stack([sample.gt.get(task) for sample in samples])


def autocast(settings: Settings, bfloat16: bool) -> AbstractContextManager:
    """Mixed precision in bfloat16, or none."""
    return torch.autocast(settings.device, dtype=torch.bfloat16, enabled=bfloat16)


def training_step(module: nn.Module, loss: Callable[[], Tensor], settings: Settings, bfloat16: bool = False) -> Run:
    """Forward and losses, backward, optimizer."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    # So small a rate leaves the weights where they are; its cost does not depend on it.
    optimizer = torch.optim.AdamW(parameters, lr=1e-8)

    def run() -> None:
        with autocast(settings, bfloat16):
            total = loss()
        total.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return run


def whole_step(model: MultiTaskEncoderDecoder, settings: Settings, side: int, bfloat16: bool = False) -> Run:
    """A training step of a model of ours."""
    inputs, samples = random_image(settings, side), random_samples(output_channels(model.heads), settings, side)
    return training_step(model, lambda: sum(model(inputs, samples, mode='loss').values()), settings, bfloat16)


def encoder_step(encoder: nn.Module, settings: Settings, side: int, bfloat16: bool = False) -> Run:
    """Forward of an encoder and backward from given gradients of its features, of every task where it has tasks."""
    inputs, gradients = random_image(settings, side), random_maps(widths(encoder), settings, side)

    def run() -> None:
        with autocast(settings, bfloat16):
            features = encoder(inputs)
        per_task = [features[task] for task in encoder.tasks] if isinstance(features, Mapping) else [features]
        pairs = [pair for maps in per_task for pair in zip(maps, gradients, strict=True)]
        torch.autograd.backward([x for x, _ in pairs], [gradient.to(x.dtype) for x, gradient in pairs])
        encoder.zero_grad(set_to_none=True)

    return run


def head_step(head: nn.Module, features: Sequence[Tensor], label: Tensor | None = None) -> Run:
    """Forward and backward of a head to its weights and its features: from its loss, or from a given gradient."""
    gradient = None if label is not None else torch.randn_like(head(features))

    def run() -> None:
        logits = head(wanting_gradients(features))
        logits.backward(gradient) if label is None else head.loss(logits, label).backward()
        head.zero_grad(set_to_none=True)

    return run


def wanting_gradients(features: Sequence[Tensor]) -> list[Tensor]:
    """Features as a head gets them in a model that trains."""
    return [x.detach().requires_grad_() for x in features]


def segformer_head(channels: Sequence[int], width: int, outputs: int) -> nn.Module:
    """mmseg's ``SegformerHead``, without the dropout that ours has not either."""
    return MODELS.build(
        dict(
            type='mmseg.SegformerHead',
            in_channels=list(channels),
            in_index=list(range(len(channels))),
            channels=width,
            num_classes=outputs,
            dropout_ratio=0.0,
            threshold=0.3,
            norm_cfg=dict(type='BN'),
            loss_decode=dict(type='mmseg.CrossEntropyLoss', avg_non_ignore=True),
        )
    )


class FineTuning(nn.Module):
    """Multi-task fine-tuning made of mmseg's own encoder and heads, with the losses of a model of ours.

    mmseg's decode heads would also compute an accuracy in every step; here they do not, which is in their favour.

    Args:
        cfg: Config of the model of ours.
        frozen: Whether only heads and output norms train.
    """

    def __init__(self, cfg: dict[str, Any], frozen: bool) -> None:
        super().__init__()
        backbone = {key: value for key, value in cfg['backbone'].items() if key not in ('plugins', 'tasks')}
        self.backbone = MODELS.build(backbone | dict(type='mmseg.SwinTransformer'))
        self.heads, self.outputs = nn.ModuleDict(), nn.ModuleDict()
        for task, head in cfg['heads'].items():
            self.outputs[task] = output = MODELS.build(head['output'])
            self.heads[task] = segformer_head(self.backbone.num_features, head['channels'], output.channels)
        if frozen:
            self.backbone.requires_grad_(False)
            for index in self.backbone.out_indices:
                getattr(self.backbone, f'norm{index}').requires_grad_(True)

    def loss(self, inputs: Tensor, samples: Sequence[MultiTaskDataSample]) -> Tensor:
        """Sum of the tasks' losses."""
        features = self.backbone(inputs)
        return sum(self._task_loss(task, features, stacked(samples, task)) for task in self.heads)

    def _task_loss(self, task: str, features: Sequence[Tensor], target: Tensor) -> Tensor:
        logits = self.heads[task](features)
        logits = F.interpolate(logits, size=target.shape[2:], mode='bilinear', align_corners=False)
        return self.outputs[task].loss(logits, target)


def prepare_ours(
    config: Path, settings: Settings, fifth: bool = False, bfloat16: bool = False, first_stage: int = 1
) -> Run:
    """The training step of a model of ours, with adapters from a stage on: no gradient is computed below it."""
    changed = dict(frozen_dtype='bfloat16') if bfloat16 else {}
    if first_stage > 1:
        (plugin,) = model_config(config, settings)['backbone']['plugins']
        changed['plugins'] = [plugin | dict(stages=tuple(stage >= first_stage for stage in range(1, 5)))]
    return whole_step(build_model(config, settings, fifth, **changed), settings, settings.image, bfloat16)


def prepare_fine_tuning(config: Path, settings: Settings, frozen: bool = False) -> Run:
    """The training step of multi-task fine-tuning with mmseg's parts."""
    torch.manual_seed(settings.seed)
    model = FineTuning(model_config(config, settings), frozen).to(settings.device).train()
    channels = {task: output.channels for task, output in model.outputs.items()}
    inputs, samples = random_image(settings, settings.image), random_samples(channels, settings, settings.image)
    return training_step(model, lambda: model.loss(inputs, samples), settings)


def prepare_floor(config: Path, settings: Settings) -> Run:
    """What no adapter can save: the frozen encoder forward and backward to its input tokens, heads and losses."""
    model = build_model(config, settings, plugins=None)
    encoder, heads = model.backbone.requires_grad_(False), model.heads
    # The tokens are the input whose gradient is asked for.
    encoder.patch_embed.register_forward_hook(lambda module, args, out: (out[0].detach().requires_grad_(), out[1]))
    side = settings.image
    inputs, samples = random_image(settings, side), random_samples(output_channels(heads), settings, side)
    gradients = random_maps(widths(encoder), settings, side)

    def run() -> None:
        features = encoder(inputs)
        # One after another, so that what a head keeps is gone when the next one begins.
        for task, head in heads.items():
            head.loss(head([x.detach() for x in features[task]]), stacked(samples, task)).backward()
        torch.autograd.backward(features[FOUR_TASKS[0]], gradients)
        heads.zero_grad(set_to_none=True)

    return run


def prepare_head(config: Path, task: str, settings: Settings) -> Run:
    """The training step of a head and its loss alone, on features that want gradients as in a model."""
    model = build_model(config, settings, fifth=True)
    head, side = model.heads[task], settings.image
    features = random_maps(widths(model.backbone), settings, side)
    target = stacked(random_samples({task: head.output.channels}, settings, side), task)
    return training_step(head, lambda: head.loss(head(wanting_gradients(features)), target), settings)


def prepare_tasks(config: Path, count: int, part: str, settings: Settings) -> Run:
    """The training step of the encoder or of the whole model for some number of tasks."""
    model = build_with_tasks(config, count, settings)
    step, module = (encoder_step, model.backbone) if part == ENCODER else (whole_step, model)
    return step(module, settings, settings.task_image)


def check_equal(what: str, ours: Sequence[Tensor], theirs: Sequence[Tensor], tolerance: float = TOLERANCE) -> float:
    """The largest difference of two things that are compared; RuntimeError if they do not compute the same."""
    differences = [(a.float() - b.float()).abs().max() for a, b in zip(ours, theirs, strict=True)]
    difference = torch.stack(differences).max().item()
    if not difference <= tolerance:
        raise RuntimeError(
            f'{what}: outputs differ by up to {difference:.2g}, more than {tolerance:g}; nothing to compare'
        )
    return difference


def prepare_inference(
    config: Path, settings: Settings, batch: int, bfloat16: bool, compile_with: Callable = lambda model: model
) -> Run:
    """The whole model without gradients, its frozen weights in the precision that it runs in."""
    frozen = dict(frozen_dtype='bfloat16') if bfloat16 else {}
    model = compile_with(build_model(config, settings, **frozen).eval())
    inputs = random_image(settings, settings.image, batch)

    def run() -> dict[str, Tensor]:
        with torch.no_grad(), autocast(settings, bfloat16):
            return model(inputs, mode='tensor')

    return run


def compiled_times(
    config: Path, settings: Settings, batch: int, bfloat16: bool
) -> tuple[dict[str, list[float]], float]:
    """Times of a model as it is and compiled, and the seconds of its compilation."""
    eager = prepare_inference(config, settings, batch, bfloat16)
    runs = dict(eager=eager, compiled=prepare_inference(config, settings, batch, bfloat16, torch.compile))
    start = time.perf_counter()
    outputs = {name: list(run().values()) for name, run in runs.items()}
    seconds = time.perf_counter() - start
    if not bfloat16:
        check_equal('compiled model', *outputs.values(), tolerance=1e-3)
    return alternate(runs, settings.seconds / 2, settings.least), seconds


CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *args, out_shape=None, **kwargs: (
        sdpa_flop_count(q, k, v)
    ),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda grad, q, k, v, *args, out_shape=None, **kwargs: sdpa_backward_flop_count(grad, q, k, v)
    ),
}
"""Operations that PyTorch's counter does not know."""


def count_flops(run: Run) -> int:
    """Floating-point operations of matrix products, convolutions and attention."""
    with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
        run()
    return counter.get_total_flops()
