"""Measure speed and memory beside what one would use otherwise: mmseg's encoder, uncomposed heads, fine-tuning of
everything, one pass of the encoder per task. docs/speed.md says what each figure is and how it is measured."""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from mmvmt.engine.provenance import run_record

from .cases import QUICK, Settings
from .comparison import log
from .measurement import cpu_flags
from .report import Row, draw_curves, insert_tables, read_rows, tables, write_rows
from .subcommands import SUBCOMMANDS

COMMANDS = {name: text for name, (_, text) in SUBCOMMANDS.items()}
COMMANDS |= dict(all='everything above but compiled models', table='tables and picture of earlier results')
MEASURING = (*SUBCOMMANDS, 'all')  # the last two of which all does not measure
OPTIONS = (
    # option, which subcommands have it, what argparse has to know
    ('--json', MEASURING, dict(metavar='FILE', help='write the rows as a JSON list')),
    ('--device', MEASURING, dict(choices=('cpu', 'cuda'), default='cpu', help='default: cpu')),
    ('--seed', MEASURING, dict(type=int, default=0, help='of weights, inputs and scenes; default: 0')),
    ('--threads', MEASURING, dict(type=int, help="threads of PyTorch; default: PyTorch's own choice")),
    ('--batch', MEASURING, dict(type=int, help='images of a step; default: 2, on a GPU, which 2 leave idle, 16')),
    ('--quick', MEASURING, dict(action='store_true', help='shrink everything: shows that it runs, and no figures')),
    ('rows', ('table',), dict(nargs='+', metavar='JSON', help='files that --json wrote, such as one per device')),
    ('--markdown', ('table',), dict(metavar='FILE', nargs='+', help='put the tables between the marks of these pages')),
    ('--picture', ('table',), dict(metavar='FILE', help='draw the curves over numbers of tasks')),
)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest='command', required=True)
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text)
        for option, where, settings in OPTIONS:
            if name in where:
                command.add_argument(option, **settings)
    args = parser.parse_args(argv)
    if args.command == 'table':
        return args
    if args.device == 'cuda' and not torch.cuda.is_available():
        parser.error('--device cuda: PyTorch sees no GPU; leave the option out to measure on the CPU')
    for name, value in dict(threads=args.threads, batch=args.batch).items():
        if value is not None and value < 1:
            parser.error(f'--{name} must be at least 1, got {value}')
    if args.json and not Path(args.json).resolve().parent.is_dir():
        parser.error(f'the folder of {args.json} does not exist; create it first')
    return args


def measure(args: argparse.Namespace) -> list[Row]:
    """Run the subcommands and say in every row where it comes from."""
    threads, start = args.threads or torch.get_num_threads(), time.perf_counter()
    batch = args.batch or (16 if args.device == 'cuda' else 2)
    settings = Settings(args.device, args.seed, threads, batch=batch, **(QUICK if args.quick else {}))
    run = run_record(args.seed) | dict(command=f'python -m benchmarks.speed {args.command}', cpu_flags=cpu_flags())
    run |= dict(device=args.device, threads=threads, quick=args.quick)
    device = run['hardware']['gpus'][0] if args.device == 'cuda' else run['hardware']['cpu']
    rows: list[Row] = []
    for name in MEASURING[:-2] if args.command == 'all' else (args.command,):
        for group in SUBCOMMANDS[name][0](settings):
            rows += [row | dict(device=device, run=run) for row in group.rows()]
            # What was measured is kept should a later part fail.
            if args.json:
                write_rows(args.json, rows)
        log(f'{name} done, {time.perf_counter() - start:.0f} s since the start')
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    if args.command != 'table':
        print('\n\n'.join(tables(measure(args)).values()))
        return 0
    try:
        rows = read_rows(args.rows)
        print('\n\n'.join(tables(rows).values()))
        for page in args.markdown or ():
            insert_tables(page, rows)
        if args.picture:
            draw_curves(rows, args.picture)
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from error
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
