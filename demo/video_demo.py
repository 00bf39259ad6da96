"""A film with the maps of all tasks beside it, frame by frame, at its own frame rate and size."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mmvmt.apis.inferencer import MultiTaskInferencer, add_inferencer_arguments, build_inferencer
from mmvmt.visualization import draw_grid

CODECS = {'.mp4': 'mp4v', '.mov': 'mp4v', '.mkv': 'mp4v', '.avi': 'MJPG'}
"""Codec of each kind of film, by the suffix of its name; OpenCV has both without further libraries."""


class Film:
    """A film to read.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: OpenCV cannot read it.
    """

    def __init__(self, path: str) -> None:
        if not Path(path).is_file():
            raise FileNotFoundError(f'film {path!r} does not exist')
        self.path = path
        self._capture = cv2.VideoCapture(path)
        if not self._capture.isOpened():
            raise ValueError(f'film {path!r} cannot be opened: it is damaged, or no film that OpenCV reads')
        self.frame_rate = self._capture.get(cv2.CAP_PROP_FPS)
        """Frames per second; 0 where the file does not say."""
        self.declared_frames = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        """Frames that the file says it has; 0 where it does not say."""

    def batches(self, size: int) -> Iterator[list[np.ndarray]]:
        """The frames, ``(H, W, 3)`` uint8 BGR, so many at a time."""
        batch = []
        while True:
            found, frame = self._capture.read()
            if found:
                batch.append(frame)
            if batch and (not found or len(batch) == size):
                yield batch
                batch = []
            if not found:
                return

    def close(self) -> None:
        """Let go of the file."""
        self._capture.release()


def convert(
    film: Film,
    inferencer: MultiTaskInferencer,
    out: Path,
    frame_rate: float,
    batch_size: int = 1,
    columns: int | None = None,
    depth_range: tuple[float, float] | None = None,
) -> int:
    """Write a film with maps, holding one batch of frames at a time.

    Returns:
        Number of frames.

    Raises:
        ValueError: There is no frame to read, frames differ in size, or OpenCV cannot write such a file.
    """
    writer, size, count = None, None, 0
    layout = (TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with Progress(*layout, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task('frames', total=film.declared_frames or None)
            for frames in film.batches(batch_size):
                for prediction in inferencer.predict(frames, batch_size=batch_size):
                    image = cv2.cvtColor(prediction.image, cv2.COLOR_BGR2RGB)
                    meta = inferencer.dataset_meta
                    picture = draw_grid(image, prediction.maps, columns, depth_range, inferencer.axes, meta)
                    if writer is None:
                        size = picture.shape
                        writer = _writer(out, frame_rate, picture.shape[1], picture.shape[0])
                    # OpenCV leaves frames of another size out without a word.
                    if picture.shape != size:
                        raise ValueError(
                            f'film {film.path!r} changes its size at frame {count + 1}, to {image.shape[1]} x '
                            f'{image.shape[0]} pixels; cut it there, a film has one size'
                        )
                    writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
                    count += 1
                progress.update(task, completed=count)
    finally:
        film.close()
        if writer is not None:
            writer.release()
    if not count:
        raise ValueError(f'film {film.path!r} has no frame that can be read')
    return count


def _writer(out: Path, frame_rate: float, width: int, height: int) -> cv2.VideoWriter:
    writer = cv2.VideoWriter(str(out), cv2.VideoWriter_fourcc(*CODECS[out.suffix.lower()]), frame_rate, (width, height))
    if not writer.isOpened():
        raise ValueError(
            f'film {str(out)!r} of {width} x {height} pixels cannot be written: see that the folder is writable; '
            f'pictures more than 8,192 pixels wide need fewer columns (--columns) or the suffix .avi'
        )
    return writer


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('video', help='film that OpenCV reads')
    add_inferencer_arguments(parser)
    parser.add_argument('--out', required=True, type=Path, help=f'film to write ({", ".join(CODECS)})')
    parser.add_argument('--columns', type=int, help='cells of a row, the film itself among them (default: a grid)')
    parser.add_argument('--frame-rate', type=float, help='frames per second (default: those of the film)')
    parser.add_argument(
        '--depth-range', type=float, nargs=2, metavar=('NEAR', 'FAR'), help='metres at the ends of the colours of depth'
    )
    args = parser.parse_args(argv)
    if args.out.suffix.lower() not in CODECS:
        parser.error(f'--out must end in {", ".join(CODECS)}, got {str(args.out)!r}')
    if args.batch_size < 1 or (args.columns is not None and args.columns < 1):
        parser.error('--batch-size and --columns must be 1 or more')
    if args.frame_rate is not None and args.frame_rate <= 0:
        parser.error(f'--frame-rate must be positive, got {args.frame_rate}')
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        film = Film(args.video)
        frame_rate = args.frame_rate or film.frame_rate
        if not frame_rate > 0:
            raise ValueError(f'film {args.video!r} does not say its frame rate; give --frame-rate')
        if args.out.exists() and args.out.samefile(args.video):
            raise ValueError(f'--out {str(args.out)!r} is the film itself, which would be overwritten while it is read')
        inferencer = build_inferencer(args, show_progress=False)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        depth_range = tuple(args.depth_range) if args.depth_range else None
        count = convert(film, inferencer, args.out, frame_rate, args.batch_size, args.columns, depth_range)
    except (OSError, TypeError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    note = f' (the file declares {film.declared_frames})' if film.declared_frames not in (0, count) else ''
    print(f'{count} frames{note} at {frame_rate:g} per second in {args.out}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
