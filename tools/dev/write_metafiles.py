"""Write configs/*/metafile.yml and model-index.yml, from which mim, mmengine.hub and the inferencers know the models.
Parameters are counted from the models themselves; no checkpoints are published, so there are neither weights nor
results in them."""

import argparse
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml
from mmengine.config import Config
from mmengine.registry import init_default_scope

import mmvmt  # noqa: F401  makes mmseg:: and the scope known before a config is read
from mmvmt.models.parameter_groups import count
from mmvmt.registry import MODELS

ROOT = Path(__file__).resolve().parents[2]
HEADER = '# Written by python tools/dev/write_metafiles.py.\n'
TRAINING_DATA = {
    'pascal': 'PASCAL-Context, multi-task edition',
    'nyud': 'NYUD-v2',
    'cityscapes': 'Cityscapes',
    'synthetic': 'rendered scenes',
    'attributes': 'rendered objects',
    'ade20k': 'ADE20K',
    'tasks': "pictures of one's own",
}
ENCODERS = {
    'dinov2_s': 'DINOv2 ViT-S/14',
    'dinov2_b': 'DINOv2 ViT-B/14',
    'swin_v2_t': 'Swin V2-T',
    'mit_b2': 'MiT-B2',
    'pvt_v2_b2': 'PVT v2-B2',
    'vit-s': 'ViT-S/16',
    'vit-b16': 'ViT-B/16',
    'vit-l': 'ViT-L/16',
    'beit-b': 'BEiT-B/16',
    'twins-svt-s': 'Twins-SVT-S',
    'deit-s': 'DeiT-S/16',
    'mit-b0': 'MiT-B0',
    'mit-b2': 'MiT-B2',
    'three_tasks': 'Swin-T',
}
"""Encoders besides those of Swin V1, by what names of configs call them; and of the template, named by its tasks."""


@dataclass(frozen=True)
class Collection:
    """A paper, and the methods that are about it.

    Args:
        name: Name of the collection.
        folder: Folder under ``configs/`` whose metafile holds it.
        title: Title of the paper.
        arxiv: Its number on arXiv.
        page: Page under ``docs/``.
        methods: Class names of the methods; the empty string: no method.
    """

    name: str
    folder: str
    title: str
    arxiv: str
    page: str
    methods: tuple[str, ...]


COLLECTIONS = (
    Collection(
        'VMT-Adapter',
        'vmt',
        'VMT-Adapter: Parameter-Efficient Transfer Learning for Multi-Task Dense Scene Understanding',
        '2312.08733',
        'methods/vmt.md',
        ('VMTAdapter', 'VMTAdapterLite'),
    ),
    Collection(
        'Polyhistor',
        'polyhistor',
        'Polyhistor: Parameter-Efficient Multi-Task Adaptation for Dense Vision Tasks',
        '2210.03265',
        'methods/polyhistor.md',
        ('Polyhistor', 'PolyhistorLite'),
    ),
    Collection(
        'HyperFormer',
        'hyperformer',
        'Parameter-efficient Multi-task Fine-tuning for Transformers via Shared Hypernetworks',
        '2106.04489',
        'methods/hyperformer.md',
        ('HyperFormer',),
    ),
    Collection(
        'Bottleneck adapters',
        'baselines',
        'Parameter-Efficient Transfer Learning for NLP',
        '1902.00751',
        'methods/bottleneck.md',
        ('Adapter', 'SharedAdapter', 'LowRankAdapter'),
    ),
    Collection(
        'Compacter',
        'baselines',
        'Compacter: Efficient Low-Rank Hypercomplex Adapter Layers',
        '2106.04647',
        'methods/compacter.md',
        ('PHMAdapter', 'Compacter', 'CompacterPlusPlus'),
    ),
    Collection(
        'LoRA',
        'baselines',
        'LoRA: Low-Rank Adaptation of Large Language Models',
        '2106.09685',
        'methods/lora.md',
        ('LoRA',),
    ),
    Collection(
        'MTLoRA',
        'mtlora',
        'MTLoRA: A Low-Rank Adaptation Approach for Efficient Multi-Task Learning',
        '2403.20320',
        'methods/mtlora.md',
        ('MTLoRA', 'MTLoRAPlus'),
    ),
    Collection(
        'DiTASK',
        'ditask',
        'DiTASK: Multi-Task Fine-Tuning with Diffeomorphic Transformations',
        '2502.06029',
        'methods/ditask.md',
        ('DiTASK',),
    ),
    Collection(
        'TADFormer',
        'tadformer',
        'TADFormer: Task-Adaptive Dynamic Transformer for Efficient Multi-Task Learning',
        '2501.04293',
        'methods/tadformer.md',
        ('TADFormer',),
    ),
    Collection(
        'DoRA',
        'baselines',
        'DoRA: Weight-Decomposed Low-Rank Adaptation',
        '2402.09353',
        'methods/dora.md',
        ('DoRA',),
    ),
    Collection(
        'SSF',
        'baselines',
        'Scaling & Shifting Your Features: A New Baseline for Efficient Model Tuning',
        '2210.08823',
        'methods/ssf.md',
        ('SSF',),
    ),
    Collection(
        'Mona',
        'baselines',
        '5%>100%: Breaking Performance Shackles of Full Fine-Tuning on Visual Recognition Tasks',
        '2408.08345',
        'methods/mona.md',
        ('Mona',),
    ),
    Collection('VPT', 'baselines', 'Visual Prompt Tuning', '2203.12119', 'methods/vpt.md', ('VPTShallow', 'VPTDeep')),
    Collection(
        'BitFit',
        'baselines',
        'BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked Language-models',
        '2106.10199',
        'methods/selective.md',
        ('BitFit',),
    ),
    Collection(
        'Swin Transformer',
        'baselines',
        'Swin Transformer: Hierarchical Vision Transformer using Shifted Windows',
        '2103.14030',
        'methods/selective.md',
        ('DecodersOnly', 'FullFineTuning', 'RelativePositionBias', 'NormTuning', 'PartTuning', ''),
    ),
)


def collection_entry(collection: Collection) -> dict:
    """A collection as a metafile has it."""
    return {
        'Name': collection.name,
        'License': 'Apache License 2.0',
        'Paper': {'Title': collection.title, 'URL': f'https://arxiv.org/abs/{collection.arxiv}'},
        'README': f'../../docs/{collection.page}',
        'Framework': 'PyTorch',
    }


def encoder_of(stem: str) -> str:
    """Name of the encoder that the name of a config names.

    Raises:
        KeyError: It names none.
    """
    for name, encoder in ENCODERS.items():
        if name in stem:
            return encoder
    size = re.search(r'swin_([a-z]+)', stem)
    if size is not None:
        return f'Swin-{size[1].upper() if len(size[1]) == 1 else size[1]}'
    raise KeyError(f'{stem} names no encoder: {", ".join(ENCODERS)}')


def model_entry(config: Path) -> dict:
    """A config as a metafile has it.

    Args:
        config: Its path under the root of the project.

    Raises:
        KeyError: No collection has its method, or its name does not say what it trains on.
    """
    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    # A pretraining has several encoders, none with a method.
    plugins = cfg.model.get('backbone', {}).get('plugins') or [dict(cfg=dict(type=''))]
    method = plugins[0]['cfg']['type'].rpartition('.')[2]
    collection = {name: entry for entry in COLLECTIONS for name in entry.methods}[method]
    return {
        'Name': f'{config.parent.name}_{config.stem}',
        'In Collection': collection.name,
        'Config': config.relative_to(ROOT).as_posix(),
        'Metadata': {
            'Training Data': TRAINING_DATA[config.stem.rpartition('_')[2]],
            'Architecture': [encoder_of(config.stem), *([method] if method else [])],
            'Parameters': count(model.parameters()),
            'Trainable Parameters': count(p for p in model.parameters() if p.requires_grad),
        },
    }


def metafile(folder: Path) -> str:
    """The metafile of a folder of configs."""
    collections = [collection_entry(entry) for entry in COLLECTIONS if entry.folder == folder.name]
    models = [model_entry(path) for path in sorted(folder.glob('*.py'))]
    content = ({'Collections': collections} if collections else {}) | {'Models': models}
    return HEADER + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)


def config_folders() -> list[Path]:
    """The folders of configs that one trains with."""
    return sorted(path for path in (ROOT / 'configs').iterdir() if path.is_dir() and path.name != '_base_')


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('folders', nargs='*', help='folders under configs/ to renew (default: all)')
    args = parser.parse_args(argv)
    unknown = set(args.folders) - {path.name for path in config_folders()}
    if unknown:
        parser.error(f'there is no folder configs/{sorted(unknown)[0]}')
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    folders = config_folders()
    for folder in folders:
        if not args.folders or folder.name in args.folders:
            (folder / 'metafile.yml').write_text(metafile(folder), encoding='utf-8')
            print(f'{folder.relative_to(ROOT)}/metafile.yml')
    index = {'Import': [f'configs/{folder.name}/metafile.yml' for folder in folders]}
    (ROOT / 'model-index.yml').write_text(HEADER + yaml.safe_dump(index, sort_keys=False), encoding='utf-8')
    return 0


if __name__ == '__main__':
    sys.exit(main())
