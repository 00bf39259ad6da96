"""Render scenes with exact ground truth for all tasks, in the PASCAL_MT layout."""

import argparse
import sys

from mmvmt.synthetic import write_pascal_mt


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('out', help='folder to write: new, empty, or written with the same arguments before')
    parser.add_argument('--train', type=int, default=800, help='scenes in the train split (default: %(default)s)')
    parser.add_argument('--val', type=int, default=200, help='scenes in the val split (default: %(default)s)')
    parser.add_argument('--size', type=int, default=160, help='side of the images in pixels (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='another seed, other images (default: %(default)s)')
    parser.add_argument('--jobs', type=int, help='processes (default: one per processor)')
    parser.add_argument('--overwrite', action='store_true', help='replace a rendered data set with other arguments')
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    options = dict(size=args.size, seed=args.seed, jobs=args.jobs, overwrite=args.overwrite)
    try:
        report = write_pascal_mt(args.out, args.train, args.val, **options)
    except (ValueError, FileExistsError) as error:
        sys.exit(f'make_synthetic.py: {error}')
    what = f'{args.train} train and {args.val} val scenes in the PASCAL_MT layout'
    print(f'{args.out}: {what}, {args.size} x {args.size} pixels, seed {args.seed}')
    print(f'written {report.written}, already there {report.skipped}, {report.seconds:.1f} s', end='')
    print(f', {report.images_per_core_second:.1f} images/s per core' if report.written else '')


if __name__ == '__main__':
    main()
