"""What is run: models of ours and what they are compared with, trained or in evaluation.

A case is a function that builds what it runs from the seed, so that cases that are compared have the same weights,
inputs and labels, and returns a :data:`Run`.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.structures import PixelData
from torch import Tensor, nn

from mmvmt.compat import check_records_graphs
from mmvmt.models.backbones.layouts import build_timm
from mmvmt.registry import MODELS
from mmvmt.structures import TASKS, MultiTaskDataSample, declare_tasks

from .measurement import Run

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
VMT = 'vmt/swin_t_pascal'
FOUR_TASKS = ('semseg', 'human_parts', 'saliency', 'normals')
ENCODER, WHOLE = 'encoder', 'whole model'
read_config = cache(lambda name: Config.fromfile(CONFIGS / f'{name}.py'))


@dataclass(frozen=True)
class Settings:
    """How large everything is, and how long it is measured."""

    device: str = 'cpu'
    seed: int = 0  # of weights, inputs and scenes
    threads: int = 1  # of PyTorch
    image: int = 448  # side of the square images in pixels
    small_image: int = 224  # the same where there are many tasks or many encoders
    batch: int = 2
    swins: tuple[tuple[str, int], ...] = (('t', 448), ('s', 224), ('b', 224))  # compared with mmseg's, and their images
    shrunk: dict[str, Any] = field(default_factory=dict)  # replaces entries of a Swin's config
    channels: int | None = None  # width of the heads; None: that of the config
    counts: tuple[int, ...] = (1, 2, 4, 8, 16, 32)  # numbers of tasks where the encoder runs once
    few_counts: tuple[int, ...] = (1, 4, 16)  # and where each costs more
    scenes: int = 24  # rendered images
    scene_size: int = 512  # their side in pixels
    least: int = 3  # rounds of every comparison at least
    seconds: float = 12.0  # of a comparison; some take a multiple of it


QUICK: dict[str, Any] = dict(
    image=64,
    small_image=64,
    swins=(('t', 64),),
    shrunk=dict(embed_dims=40, depths=(1, 1, 2, 1), num_heads=(1, 2, 2, 4), window_size=4),
    channels=16,
    counts=(1, 4, 16),
    few_counts=(1, 16),
    scenes=4,
    scene_size=64,
    least=2,
    seconds=0.3,
)
"""Sizes of ``--quick``: everything runs, and no figure means anything."""


def task_names(count: int) -> tuple[str, ...]:
    """Names of any number of tasks: the four tasks, then the same again as ``semseg-1``, ``human_parts-1``, ..."""
    turns = -(-count // len(FOUR_TASKS))
    return tuple(f'{task}-{turn}' if turn else task for turn in range(turns) for task in FOUR_TASKS)[:count]


def model_config(
    config: str,
    settings: Settings,
    tasks: int | None = None,
    encoder: Any = None,
    first_stage: int = 1,
    **backbone: Any,
) -> dict[str, Any]:
    """Config of a model with random weights and with changes: some number of tasks, another encoder, adapters from a
    stage on (no gradient is computed below it), entries of the backbone."""
    cfg = read_config(config).model.to_dict()
    cfg['backbone'].pop('init_cfg', None)
    if encoder is not None:
        cfg['backbone'] = dict(type='mmvmt.AdaptedBackbone', encoder=encoder, plugins=cfg['backbone']['plugins'])
    cfg['backbone'] |= backbone | (settings.shrunk if encoder is None else {})
    for plugin in cfg['backbone']['plugins'] if first_stage > 1 else ():
        plugin['stages'] = tuple(stage >= first_stage for stage in range(1, 5))
    if tasks is not None:
        kinds = {name: name.split('-')[0] for name in task_names(tasks)}
        declare_tasks({name: TASKS[kind].declaration if name != kind else None for name, kind in kinds.items()})
        cfg['heads'] = {name: dict(cfg['heads'][kind]) for name, kind in kinds.items()}
    for head in cfg['heads'].values() if settings.channels is not None else ():
        head['channels'] = settings.channels
    return cfg


def swin_config(config: str, settings: Settings, kind: str) -> dict[str, Any]:
    """The Swin of a model's config as another kind of module, without adapters."""
    backbone = model_config(config, settings)['backbone']
    return {key: value for key, value in backbone.items() if key != 'plugins'} | dict(type=kind)


def build(cfg: Mapping[str, Any], settings: Settings) -> nn.Module:
    """A module in training mode, from the seed; encoders of timm put out maps as timm itself has them."""
    torch.manual_seed(settings.seed)
    if cfg['type'] == 'timm':
        module = build_timm(cfg)
        module.forward = partial(module.forward_intermediates, indices=module.out_indices, intermediates_only=True)
    else:
        # Some write into lists of it.
        module = MODELS.build(deepcopy(dict(cfg)))
    # Of some encoders it returns nothing.
    module.to(settings.device).train()
    return module


def random_image(settings: Settings, side: int, batch: int | None = None) -> Tensor:
    """A normalised batch of images of noise."""
    generator = torch.Generator().manual_seed(settings.seed)
    return torch.randn(batch or settings.batch, 3, side, side, generator=generator).to(settings.device)


def random_maps(channels: Sequence[int], settings: Settings, side: int) -> list[Tensor]:
    """Random maps in the sizes and the memory order of a Swin's, for an image of a side."""
    generator = torch.Generator().manual_seed(settings.seed)
    sides = [side // 2 ** (level + 2) for level in range(len(channels))]
    tokens = [torch.randn(settings.batch, s, s, c, generator=generator) for s, c in zip(sides, channels)]
    return [x.to(settings.device).permute(0, 3, 1, 2) for x in tokens]


def random_samples(heads: Mapping[str, nn.Module], settings: Settings, side: int) -> list[MultiTaskDataSample]:
    """A batch of samples with random label maps for some tasks' heads, a tenth of each unknown."""
    generator, size = torch.Generator().manual_seed(settings.seed), (1, side, side)
    samples = [MultiTaskDataSample(metainfo=dict(img_id=str(i), img_shape=size[1:])) for i in range(settings.batch)]
    for sample in samples:
        sample.gt = PixelData()
        for task, head in heads.items():
            kind, known = TASKS[task].kind, torch.rand(size, generator=generator) > 0.1
            if kind == 'vectors':
                labels = F.normalize(torch.randn(3, side, side, generator=generator), dim=0) * known
            else:
                classes = head.output.channels if kind == 'classes' else 2
                labels = torch.randint(classes, size, generator=generator).where(known, TASKS[task].ignore).byte()
            sample.gt.set_field(labels.to(settings.device), task)
    return samples


def stacked(samples: Sequence[MultiTaskDataSample], task: str) -> Tensor:
    """Label maps of a batch."""
    return torch.stack([sample.gt.get(task) for sample in samples])


def flat(outputs: Any) -> list[Tensor]:
    """The tensors of what a module puts out."""
    if isinstance(outputs, Tensor):
        return [outputs]
    return [x for each in (outputs.values() if isinstance(outputs, Mapping) else outputs) for x in flat(each)]


def evaluation(module: nn.Module, inputs: Any, settings: Settings, bfloat16: bool = False, **options: Any) -> Run:
    """A pass in evaluation, without gradients."""
    module.eval()

    @torch.no_grad()
    def run(bfloat16: bool = bfloat16) -> Any:
        with torch.autocast(settings.device, torch.bfloat16, bfloat16):
            return module(inputs, **options)

    return run


def training(
    module: nn.Module, forward: Callable[[], Any], settings: Settings, bfloat16: bool = False, gradients: Any = None
) -> Run:
    """Forward to losses, backward, optimizer; or forward to maps and back from given gradients, the same for every
    task, without an optimizer."""
    if gradients is None:
        # So small a rate leaves the weights where they are; its cost does not depend on it.
        optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-8)

    def run(bfloat16: bool = bfloat16) -> list[Tensor]:
        with torch.autocast(settings.device, torch.bfloat16, bfloat16):
            outputs = flat(forward())
        if gradients is None:
            sum(outputs).backward()
            optimizer.step()
        else:
            given = zip(outputs, itertools.cycle(gradients))
            torch.autograd.backward(outputs, [gradient.to(x.dtype) for x, gradient in given])
        module.zero_grad(set_to_none=True)
        return [x.detach() for x in outputs]

    return run


def encoder(settings: Settings, cfg: Mapping[str, Any], doing: str, side: int) -> Run:
    """An encoder by itself, on a GPU in bfloat16: ``'evaluation'``, the same ``'compiled'``, or forward and backward,
    ``'training'`` of all weights, or through ``'frozen'`` ones back to the image."""
    module, image, bfloat16 = build(cfg, settings), random_image(settings, side), settings.device == 'cuda'
    if doing in ('training', 'frozen'):
        module.requires_grad_(doing == 'training')
        with torch.no_grad():
            gradients = [torch.randn_like(x) for x in flat(module(image))]
        given = (lambda: image.detach().requires_grad_()) if doing == 'frozen' else (lambda: image)
        return training(module, lambda: module(given()), settings, bfloat16, gradients)
    if doing == 'compiled':
        module.compile()
    return evaluation(module, image, settings, bfloat16)


def step(settings: Settings, config: str, part: str = WHOLE, side: int | None = None, **changes: Any) -> Run:
    """The training step of a model of ours, or of its encoder; with changes as in :func:`model_config`."""
    model, bfloat16 = build(model_config(config, settings, **changes), settings), 'frozen_dtype' in changes
    side = side or (settings.small_image if 'tasks' in changes else settings.image)
    image = random_image(settings, side)
    if part == ENCODER:
        module, gradients = model.backbone, random_maps(model.backbone.num_features, settings, side)
        return training(module, lambda: module(image), settings, bfloat16, gradients)
    samples = random_samples(model.heads, settings, side)
    return training(model, lambda: model(image, samples, mode='loss'), settings, bfloat16)


def inference(settings: Settings, config: str, batch: int | None = None, compiled: bool = False, **changes: Any) -> Run:
    """The whole model in evaluation; with some number of tasks its encoder."""
    model, bfloat16 = build(model_config(config, settings, **changes), settings), 'frozen_dtype' in changes
    if compiled:
        check_records_graphs('torch.compile of the models')
        model.compile()
    if 'tasks' in changes:
        return evaluation(model.backbone, random_image(settings, settings.small_image), settings, bfloat16)
    return evaluation(model, random_image(settings, settings.image, batch), settings, bfloat16, mode='tensor')


def floor(settings: Settings, config: str) -> Run:
    """What no adapter can save: the frozen encoder forward and backward to its input tokens, heads and losses."""
    model, side = build(model_config(config, settings, plugins=None), settings), settings.image
    backbone, heads = model.backbone.requires_grad_(False), model.heads
    # The tokens are the input whose gradient is asked for.
    backbone.patch_embed.register_forward_hook(lambda module, args, out: (out[0].detach().requires_grad_(), out[1]))
    image, samples = random_image(settings, side), random_samples(heads, settings, side)
    gradients = random_maps(backbone.num_features, settings, side)

    def run() -> None:
        features = backbone(image)
        # One after another, so that what a head keeps is gone when the next one begins.
        for task, head in heads.items():
            head.loss(head([x.detach() for x in features[task]]), stacked(samples, task)).backward()
        torch.autograd.backward(features[FOUR_TASKS[0]], gradients)
        heads.zero_grad(set_to_none=True)

    return run


def segformer(channels: Sequence[int], width: int, outputs: int) -> dict[str, Any]:
    """Config of mmseg's ``SegformerHead``, without the dropout that ours has not either."""
    return dict(
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


def fine_tuning(settings: Settings, config: str, frozen: bool = False) -> Run:
    """The training step of multi-task fine-tuning with mmseg's own encoder and heads and the losses of a model of ours,
    of everything or of heads and output norms alone.

    mmseg's decode heads would also compute an accuracy in every step; here they do not, which is in their favour.
    """
    backbone = build(swin_config(config, settings, 'mmseg.SwinTransformer'), settings)
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(not frozen or name.startswith('norm'))
    heads = nn.ModuleDict()
    for task, cfg in model_config(config, settings)['heads'].items():
        output = MODELS.build(cfg['output'])
        heads[task] = build(segformer(backbone.num_features, cfg['channels'], output.channels), settings)
        heads[task].output = output
    image, samples = random_image(settings, settings.image), random_samples(heads, settings, settings.image)

    def losses() -> list[Tensor]:
        features, each = backbone(image), []
        for task, head in heads.items():
            logits = F.interpolate(head(features), size=image.shape[2:], mode='bilinear', align_corners=False)
            each.append(head.output.loss(logits, stacked(samples, task)))
        return each

    return training(nn.ModuleDict(dict(backbone=backbone, heads=heads)), losses, settings)


def head(
    settings: Settings,
    doing: str = 'maps',
    small: bool = False,
    config: str = VMT,
    task: str = 'semseg',
    **changes: Any,
) -> Run:
    """The head of a task by itself, or mmseg's (``mmseg=True``), on random features that want gradients as in a model:
    forward and backward from a given gradient of its ``'maps'`` or from its ``'loss'``; or a ``'training'`` step."""
    side, model = settings.small_image if small else settings.image, model_config(config, settings)
    channels = [model['backbone']['embed_dims'] * 2**level for level in range(4)]
    cfg = model['heads'][task] | dict(in_channels=channels) | changes
    if cfg.pop('mmseg', False):
        cfg = segformer(channels, cfg['channels'], cfg['output']['num_classes'])
    module, features = build(cfg, settings), random_maps(channels, settings, side)

    def logits() -> Tensor:
        return module([x.detach().requires_grad_() for x in features])

    if doing == 'maps':
        return training(module, logits, settings, gradients=[torch.randn_like(logits())])
    target = stacked(random_samples({task: module}, settings, side), task)
    given = [torch.ones((), device=settings.device)] if doing == 'loss' else None
    return training(module, lambda: module.loss(logits(), target), settings, gradients=given)


def check_equal(what: str, ours: Any, theirs: Any, tolerance: float) -> float:
    """The largest difference of two things that are compared; RuntimeError if they do not compute the same."""
    differences = [(a.float() - b.float()).abs().max() for a, b in zip(flat(ours), flat(theirs), strict=True)]
    difference = torch.stack(differences).max().item()
    if not difference <= tolerance:
        raise RuntimeError(f'{what}: outputs differ by up to {difference:.2g}, more than {tolerance:g}')
    return difference
