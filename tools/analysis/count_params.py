"""Count the parameters of a config by group: what adapters add, trained norms and biases, decoders, and the frozen
rest. With --table, count all methods of the benchmark on Swin-T beside the figures reported for them, and methods on
other encoders."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope
from rich.console import Console
from rich.table import Table
from torch import nn

import mmvmt  # noqa: F401  makes the scope known before the config is read
from mmvmt.adapters.parts import norm_parameters
from mmvmt.models import AdaptedEncoder, parameter_groups
from mmvmt.models.backbones.plugins import build_method
from mmvmt.models.parameter_groups import count
from mmvmt.registry import MODELS

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
MARKS = '<!-- parameters:begin -->', '<!-- parameters:end -->'
"""Between these, --docs writes the table."""

ENCODER_MARKS = '<!-- encoders:begin -->', '<!-- encoders:end -->'
"""Between these, --docs writes the table of encoders."""


@dataclass(frozen=True)
class Row:
    """A method of the benchmark.

    Args:
        method: Its name as in the papers' tables.
        configs: Configs under ``configs/``; several where every task has an encoder of its own.
        reported: Trainable parameters of the encoder part as reported, in millions; None where nobody reported one.
        note: What to know of the difference; ``{ours}`` is our count, ``{adapters}`` the part of it that the adapters
            are; ``{tables}`` the number of entries of the relative position bias tables of one encoder,
            ``{encoder_norms}`` of its LayerNorms, ``{output_norms}`` of the tasks' norms between encoder and decoders,
            ``{decoders}`` of the decoders.
        whole: Whether decoders are counted too, in ours and in the reported figure.
    """

    method: str
    configs: tuple[str, ...]
    reported: float | None
    note: str = ''
    whole: bool = False


# Reported figures: the benchmark of the Polyhistor paper (arXiv 2210.03265), Swin-T, four tasks; for the VMT rows
# the VMT-Adapter paper (arXiv 2312.08733), about 1 % and 0.36 % of four encoders; the last rows are of later papers.
ROWS = (
    Row(
        'single-task full fine-tuning',
        tuple(f'baselines/swin_t_single_{task}_pascal.py' for task in ('semseg', 'human_parts', 'saliency', 'normals')),
        110.07,
    ),
    Row('decoders only', ('baselines/swin_t_decoders_only_pascal.py',), 0.0),
    Row('multi-task full fine-tuning', ('baselines/swin_t_full_multitask_pascal.py',), 27.51),
    Row(
        'BitFit',
        ('baselines/swin_t_bitfit_pascal.py',),
        0.30,
        'reported figure fits every parameter with "bias" in its name: with the tables of the relative position bias '
        '{ours:,} + 4 x {tables:,} = {with_tables:,}; ours are the biases of layers',
    ),
    Row('relative position bias', ('baselines/swin_t_relative_position_bias_pascal.py',), 0.09),
    Row('LayerNorms', ('baselines/swin_t_norms_pascal.py',), None),
    Row('VPT-shallow', ('baselines/swin_t_vpt_shallow_pascal.py',), 0.02),
    Row('VPT-deep', ('baselines/swin_t_vpt_deep_pascal.py',), 0.88),
    Row('PHM layer', ('baselines/swin_t_phm_adapter_pascal.py',), 0.59),
    Row(
        'Compacter',
        ('baselines/swin_t_compacter_pascal.py',),
        0.28,
        'the module of Compacter++ in two places instead of one can at most double its count; the reported figures '
        'stand in the ratio 2.5 (0.28 / 0.11), so they count something else in one of them',
    ),
    Row('Compacter++', ('baselines/swin_t_compacter_plus_plus_pascal.py',), 0.11),
    Row('LoRA', ('baselines/swin_t_lora_pascal.py',), 0.32),
    Row('Adapter (one per task)', ('baselines/swin_t_adapter_pascal.py',), 8.69),
    Row('Low-rank adapter', ('baselines/swin_t_low_rank_adapter_pascal.py',), 0.34),
    Row('Shared adapter', ('baselines/swin_t_shared_adapter_pascal.py',), 2.20),
    Row('HyperFormer', ('hyperformer/swin_t_pascal.py',), 72.77),
    Row(
        'Polyhistor',
        ('polyhistor/swin_t_pascal.py',),
        6.41,
        'reported figure fits the sum with all LayerNorms (unfreeze="norms"): {adapters:,} + {encoder_norms:,} in the '
        'encoder + {output_norms:,} output norms, which are counted with the decoders here, = {with_norms:,}',
    ),
    Row(
        'Polyhistor-Lite',
        ('polyhistor/swin_t_lite_pascal.py',),
        0.41,
        'equal to the digits that are reported: {adapters:,} + {encoder_norms:,} in the LayerNorms of the encoder',
    ),
    Row('VMT-Adapter', ('vmt/swin_t_pascal.py',), 1.1, 'reported as about 1 % of four encoders'),
    Row('VMT-Adapter-Lite', ('vmt/swin_t_lite_pascal.py',), 0.40, 'reported as 0.36 % of four encoders'),
    Row(
        'patch embedding, norms, position tables',
        ('baselines/swin_t_small_parts_pascal.py',),
        None,
        'what MTLoRA+ and TADFormer train of the encoder besides their own modules',
    ),
    Row(
        'patch embedding, norms, position tables, merging',
        ('baselines/swin_t_parts_pascal.py',),
        None,
        'what MTLoRA and DiTASK train of the encoder besides their own modules',
    ),
    Row(
        'MTLoRA, rank 16',
        ('mtlora/swin_t_r16_pascal.py',),
        None,
        "reported with decoders: 4.95 M, which is {ours:,} + 1,946,624 of the authors'",
    ),
    Row(
        'MTLoRA, rank 32',
        ('mtlora/swin_t_r32_pascal.py',),
        None,
        "reported with decoders: 6.08 M, which is {ours:,} + 1,946,624 of the authors'",
    ),
    Row('MTLoRA, rank 64', ('mtlora/swin_t_r64_pascal.py',), 6.40),
    Row(
        'MTLoRA, rank 64, with its decoders',
        ('mtlora/swin_t_r64_published_pascal.py',),
        8.34,
        "{decoders:,} in the authors' decoders, on features behind the merging: the row as its paper has it",
        whole=True,
    ),
    Row('MTLoRA+, rank 4', ('mtlora/swin_t_plus_r4_pascal.py',), None),
    Row('MTLoRA+, rank 8', ('mtlora/swin_t_plus_r8_pascal.py',), None),
    Row('MTLoRA+, rank 16', ('mtlora/swin_t_plus_r16_pascal.py',), None),
    Row('MTLoRA+, rank 64, 4 per task', ('mtlora/swin_t_plus_r64_task4_pascal.py',), None),
    Row(
        'DiTASK',
        ('ditask/swin_t_pascal.py',),
        1.61,
        'reported figure fits 64 cells per task and maps that nothing reads; all but {adapters:,} are parts of the '
        'encoder',
    ),
    Row('DiTASK, layers between stages frozen', ('ditask/swin_t_small_pascal.py',), None),
    *(
        Row(
            f'TADFormer, rank {rank}',
            (f'tadformer/swin_t_r{rank}_pascal.py',),
            None,
            f'reported with decoders: {reported} M, which is {{ours:,}} + 5,952 in norms that nothing reads + '
            "1,946,624 of the authors'",
        )
        for rank, reported in ((16, 3.56), (32, 4.78), (64, 7.38))
    ),
    Row(
        'TADFormer, rank 64, fixed filters',
        ('tadformer/swin_t_r64_static_pascal.py',),
        None,
        'what the published code builds, but for 5,952 in norms that nothing reads',
    ),
    Row('SSF', ('baselines/swin_t_ssf_pascal.py',), None),
    Row('DoRA', ('baselines/swin_t_dora_pascal.py',), None),
    Row('Mona', ('baselines/swin_t_mona_pascal.py',), None),
    Row('AdaptFormer', ('baselines/swin_t_adaptformer_pascal.py',), None),
)


ENCODERS = {
    'Swin-T': 'swin_t_mlp.py',
    'Swin V2-T': 'swin_v2_t_mlp.py',
    'MiT-B2': 'mit_b2_mlp.py',
    'PVT v2-B2': 'pvt_v2_b2_mlp.py',
    'DINOv2 ViT-S': 'dinov2_s_mlp.py',
    'DINOv2 ViT-B': 'dinov2_b_mlp.py',
}
"""Encoders of the second table: base configs of models."""

ON_ENCODERS = (
    'BitFit',
    'VPT-deep',
    'LoRA',
    'Low-rank adapter',
    'Adapter (one per task)',
    'Shared adapter',
    'Polyhistor',
    'Polyhistor-Lite',
    'VMT-Adapter',
    'VMT-Adapter-Lite',
    'MTLoRA, rank 16',
    'SSF',
    'DoRA',
    'Mona',
    'AdaptFormer',
)
"""Methods of the second table, as they stand in the first."""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', nargs='?', help='config file')
    parser.add_argument('--table', action='store_true', help='count all methods of the benchmark instead')
    parser.add_argument('--docs', metavar='FILE', help='with --table: also renew the table in this Markdown file')
    parser.add_argument(
        '--json', action='store_true', help='print JSON as the last line, with --table the rows of both tables'
    )
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, help='override config entries, as key=value pairs'
    )
    args = parser.parse_args(argv)
    if args.table == bool(args.config):
        parser.error('name a config, or ask for --table')
    if args.docs and not args.table:
        parser.error('--docs needs --table')
    return args


def build(cfg: Config) -> nn.Module:
    """The model of a config, without any weights being read.

    Raises:
        SystemExit: It has no ``AdaptedEncoder`` as its backbone.
    """
    init_default_scope(cfg.get('default_scope', 'mmvmt'))
    model = MODELS.build(cfg.model)
    backbone = getattr(model, 'backbone', None)
    if not isinstance(backbone, AdaptedEncoder):
        raise SystemExit(
            f'the backbone of {type(model).__name__} is {type(backbone).__name__}; counts by group need an '
            f"AdaptedEncoder (model.backbone.type='mmvmt.AdaptedSwin')"
        )
    return model


def count_parameters(cfg: Config) -> dict[str, float]:
    """Counts of a config's model.

    Args:
        cfg: Config with ``model``.

    Returns:
        Entries of each group, ``total`` of the model, ``trainable``, ``encoder`` (the frozen or trained encoder without
        adapters), and what trains in the encoder as percent of one encoder and of one encoder per task.
    """
    model = build(cfg)
    groups = {name: count(parameters) for name, parameters in parameter_groups(model).items()}
    total = sum(groups.values())
    encoder = count(model.backbone.parameters()) - count(model.backbone.adapter_parameters())
    trained = groups['adapters'] + groups['norms_biases'] + groups['encoder_weights']
    return groups | dict(
        total=total,
        trainable=total - groups['frozen'],
        encoder=encoder,
        percent_of_one_encoder=round(100 * trained / encoder, 4),
        percent_of_T_encoders=round(100 * trained / (encoder * len(model.backbone.tasks or ('default',))), 4),
    )


def table_row(row: Row) -> dict:
    """Our count of a method beside the reported one.

    Returns:
        ``method``; ``encoder_ours`` and ``encoder_published``, trainable parameters without decoders; ``diff_percent``;
        ``passes`` of the encoder over an image: ``'1'``, ``'T'``, or ``'T models'``; ``note``.
    """
    ours = 0
    for path in row.configs:
        model = build(Config.fromfile(CONFIGS / path))
        groups = parameter_groups(model)
        counted = ('adapters', 'norms_biases', 'encoder_weights', *(('decoders',) if row.whole else ()))
        ours += sum(count(groups[name]) for name in counted)
    passes = 'T models' if len(row.configs) > 1 else 'T' if model.backbone.per_task else '1'
    tables = sum(p.numel() for n, p in model.backbone.own_parameters().items() if n.endswith('position_bias_table'))
    note = row.note.format(ours=ours, tables=tables, with_tables=ours + 4 * tables, **_norm_counts(model))
    published = difference = None
    if row.reported is not None:
        published = round(row.reported * 1e6)
        difference = round(100 * (ours - published) / published, 2) if published else 0.0 if not ours else None
        if not note and f'{ours / 1e6:.2f}' == f'{row.reported:.2f}':
            note = 'equal to the digits that are reported'
    return dict(
        method=row.method,
        encoder_ours=ours,
        encoder_published=published,
        diff_percent=difference,
        passes=passes,
        note=note,
    )


def encoder_rows() -> list[dict]:
    """Trainable parameters of the encoder part by method, each on every encoder, with the options of the first table.

    Returns:
        ``method``, and for every encoder of :data:`ENCODERS` that count, its percentage of the encoder, and the reason
        where the encoder has no such slot: ``{'Swin-T': dict(ours=..., percent=..., refused=None)}``.
    """
    plugins = {row.method: Config.fromfile(CONFIGS / row.configs[0]).model.backbone.plugins for row in ROWS}
    rows = [dict(method=method) for method in ON_ENCODERS]
    for name, base in ENCODERS.items():
        cfg = Config.fromfile(CONFIGS / '_base_' / 'models' / base)
        encoder = build(cfg).backbone
        whole = count(encoder.own_parameters().values())
        for row in rows:
            row[name] = dict(ours=None, percent=None, refused=None)
            try:
                methods = [build_method(plugin, encoder, encoder.tasks) for plugin in plugins[row['method']]]
            except ValueError as error:
                row[name]['refused'] = str(error)
                continue
            trained = {}
            for method in methods:
                method.attach(encoder)
                trained |= {id(p): p for p in (*method.parameters(), *method.encoder_parameters(encoder))}
            ours = count(trained.values())
            row[name].update(ours=ours, percent=round(100 * ours / whole, 3))
        rows[0][name]['encoder'] = whole
    return rows


def encoder_cells(row: dict) -> list[str]:
    """A row of the table of encoders as text."""
    return [row['method'], *('-' if row[n]['refused'] else f'{row[n]["percent"]:.2f} %' for n in ENCODERS)]


def _norm_counts(model: nn.Module) -> dict[str, int]:
    """Entries of the adapters, of the LayerNorms of encoder and heads, and of all of these."""
    own = {id(p) for p in model.backbone.own_parameters().values()}
    counts = dict(
        adapters=count(model.backbone.adapter_parameters()),
        encoder_norms=count(p for p in norm_parameters(model.backbone) if id(p) in own),
        output_norms=count(norm_parameters(model.heads)),
    )
    decoders = count(parameter_groups(model)['decoders'])
    return counts | dict(with_norms=sum(counts.values()), decoders=decoders)


def cells(row: dict) -> list[str]:
    """A row of the table as text."""
    published, difference = row['encoder_published'], row['diff_percent']
    return [
        row['method'],
        f'{row["encoder_ours"]:,}',
        '' if published is None else f'{published / 1e6:.2f} M',
        '' if difference is None else f'{difference:+.2f} %',
        row['passes'],
        row['note'],
    ]


HEADER = ['method', 'ours', 'reported', 'difference', 'encoder passes', 'note']


def check_docs(path: Path) -> None:
    """See that a Markdown file has a place for the table, before the counting starts.

    Raises:
        SystemExit: The file is missing or has no marks.
    """
    if not path.is_file():
        raise SystemExit(f'{path} does not exist')
    for marks in (MARKS, ENCODER_MARKS):
        if not all(mark in path.read_text(encoding='utf-8') for mark in marks):
            raise SystemExit(f'{path} has no place for the table: it needs the lines {marks[0]} and {marks[1]}')


def write_docs(path: Path, marks: tuple[str, str], lines: list[list[str]], alignment: str) -> None:
    """Put a table, whose first line is its header, between two marks of a Markdown file."""
    before, rest = path.read_text(encoding='utf-8').split(marks[0], 1)
    after = rest.split(marks[1], 1)[1]
    text = ['| ' + ' | '.join(line) + ' |' for line in lines]
    text.insert(1, alignment)
    path.write_text(before + '\n'.join([marks[0], *text, marks[1]]) + after, encoding='utf-8')


def print_table(console: Console, title: str, lines: list[list[str]], left: Sequence[int]) -> None:
    """Print a table whose first line is its header, with the columns ``left`` not set to the right."""
    table = Table(title=title)
    for index, name in enumerate(lines[0]):
        table.add_column(name, justify='left' if index in left else 'right')
    for line in lines[1:]:
        table.add_row(*line)
    console.print(table)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    # A table that is piped into a file needs more than the 80 columns that rich assumes.
    console = Console() if sys.stdout.isatty() else Console(width=200)
    if args.table:
        if args.docs:
            check_docs(Path(args.docs))
        rows, on_encoders = [table_row(row) for row in ROWS], encoder_rows()
        lines = [HEADER, *map(cells, rows)]
        print_table(console, 'Trainable parameters of the encoder part, Swin-T, four tasks', lines, (0, 4, 5))
        sizes = [f'{name}, {on_encoders[0][name]["encoder"] / 1e6:.1f} M' for name in ENCODERS]
        of_encoders = [['method', *sizes], *map(encoder_cells, on_encoders)]
        print_table(console, 'The same as percentages of the encoder', of_encoders, (0,))
        if args.docs:
            write_docs(Path(args.docs), MARKS, lines, '|---|' + '---:|' * 3 + '---|---|')
            write_docs(Path(args.docs), ENCODER_MARKS, of_encoders, '|---|' + '---:|' * len(ENCODERS))
        if args.json:
            print(json.dumps(dict(methods=rows, encoders=on_encoders)))
        return 0
    cfg = Config.fromfile(args.config)
    if args.cfg_options is not None:
        cfg.merge_from_dict(args.cfg_options)
    counts = count_parameters(cfg)
    table = Table(title=args.config)
    table.add_column('group')
    table.add_column('parameters', justify='right')
    for name, value in counts.items():
        table.add_row(name, f'{value:.3f} %' if name.startswith('percent') else f'{value:,}')
    console.print(table)
    if args.json:
        print(json.dumps(counts))
    return 0


if __name__ == '__main__':
    sys.exit(main())
