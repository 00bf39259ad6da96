"""Maps of all tasks for a picture, a folder or a pattern: files in the formats of PASCAL_MT and labelled pictures."""

import argparse
import sys

from mmvmt.apis.inferencer import UnreadableImagesError, add_inferencer_arguments, build_inferencer


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('image', help="picture, folder, or quoted pattern such as 'photos/**/*.jpg'")
    add_inferencer_arguments(parser)
    parser.add_argument('--out', default='work_dirs/image_demo', help='folder of maps and pictures: %(default)s')
    parser.add_argument(
        '--skip-unreadable', action='store_true', help='leave out pictures that cannot be read, without an error'
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        inferencer = build_inferencer(args)
        predictions = inferencer.predict(
            args.image, batch_size=args.batch_size, on_unreadable='skip' if args.skip_unreadable else 'raise'
        )
        count = 0
        for prediction in predictions:
            written = prediction.save(args.out)
            count += 1
    except UnreadableImagesError as error:
        print(f'{error}\n{count} pictures were computed, see {args.out}', file=sys.stderr)
        return 1
    except (OSError, TypeError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    example = f', e.g. {written[-1]}' if count else ''
    print(f'{", ".join(inferencer.tasks)} of {count} {"picture" if count == 1 else "pictures"} in {args.out}{example}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
