"""A local web page: drop a picture, see the maps of all tasks under sliders, and what of the model was trained.

Without a config and a checkpoint it shows what `make demo` has trained."""

import argparse
import html
import json
import os
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import DictAction

from mmvmt.apis.inferencer import MultiTaskInferencer, build_inferencer
from mmvmt.datasets import PASCALContextMT
from mmvmt.engine.files import latest_checkpoint
from mmvmt.engine.run_config import add_trust_argument
from mmvmt.models import parameter_groups
from mmvmt.models.parameter_groups import count
from mmvmt.structures import TASKS, NormalsAxes, names_key
from mmvmt.visualization import colorize, palette_of
from mmvmt.visualization.drawing import robust_range

ROOT = Path(__file__).resolve().parents[1]
DEMO_CONFIG = 'configs/vmt/swin_nano_synthetic.py'
DEMO_FOLDER = 'work_dirs/demo'
"""What `make demo` trains, and where it leaves it."""
EXAMPLES = 6
"""Validation scenes of the demo that the page offers."""
RAMP = 9
"""Colours of which the bar of a legend is made."""
INSTALL = 'pip install -r requirements/optional.txt'
CACHE_SECONDS = 3600
"""Age at which pictures of earlier visitors are deleted."""

PARTS = {
    'adapters': 'adapters',
    'norms_biases': 'norms and biases of the encoder',
    'encoder_weights': 'other weights of the encoder',
    'decoders': 'heads',
    'task_weights': 'weights of the tasks',
    'frozen': 'frozen',
}
"""Names of the groups of parameters, in the order of the table."""
DIRECTIONS = ('right', 'left', 'up', 'down', 'to the viewer')
"""Normals whose colours the legend shows."""

CSS = """
#maps {display: grid; grid-template-columns: repeat(auto-fill, minmax(min(360px, 100%), 1fr)); gap: 16px;}
#maps > * {min-width: 0 !important;}
:is(#status, #maps) .html-container {padding: 0;}
#status .failure {border-left: 3px solid #dc2626; padding-left: 8px; overflow-wrap: anywhere;}
#parameters table {width: auto;}
#parameters :is(th, td) {padding: 4px 10px; word-break: normal; overflow-wrap: normal;}
#parameters :is(th, td):not(:first-child) {text-align: right; white-space: nowrap;}
.legend {display: flex; flex-wrap: wrap; align-items: center; gap: 2px 12px; font-size: 13px; line-height: 1.5;}
.legend span {display: inline-flex; align-items: center; gap: 5px; white-space: nowrap;}
.legend i {width: 12px; height: 12px; border-radius: 3px; border: 1px solid rgba(128, 128, 128, 0.6);}
.legend b {width: 96px; height: 12px; border-radius: 3px; border: 1px solid rgba(128, 128, 128, 0.6);}
"""


@dataclass(frozen=True)
class Trained:
    """A trained model, and pictures to try it on."""

    config: str
    checkpoint: str
    examples: tuple[str, ...] = ()


def find_demo(folder: Path) -> Trained:
    """What `make demo` left: its VMT-Adapter of the first seed, and some of its validation scenes.

    Args:
        folder: The demo's folder.

    Raises:
        FileNotFoundError: There is no finished demo.
    """
    results = folder / 'results.json'
    if not results.is_file():
        raise FileNotFoundError(
            f'{results} does not exist: run `make demo` first, or name a model: python demo/web.py CONFIG CHECKPOINT'
        )
    record = json.loads(results.read_text(encoding='utf-8'))
    work_dir = (folder / record['runs']['VMT-Adapter'][0]['predictions']).parent
    checkpoint = latest_checkpoint(work_dir)
    ids = (folder / 'scenes' / 'ImageSets' / 'Context' / 'val.txt').read_text(encoding='utf-8').split()
    scenes = tuple(str(folder / 'scenes' / 'JPEGImages' / f'{img_id}.jpg') for img_id in ids[:EXAMPLES])
    return Trained(str(ROOT / DEMO_CONFIG), checkpoint, scenes)


def import_gradio() -> Any:
    """Gradio, which sends nothing about its use.

    Raises:
        ModuleNotFoundError: It is not installed.
    """
    os.environ['GRADIO_ANALYTICS_ENABLED'] = 'False'
    try:
        import gradio
    except ModuleNotFoundError as error:
        if error.name != 'gradio':
            raise
        raise ModuleNotFoundError(f'the page needs the package gradio: {INSTALL}', name='gradio') from error
    return gradio


def class_names(task: str, classes: int, meta: Mapping[str, Any] | None = None) -> list[str]:
    """Names of the classes of a task: those of the data, else of the declaration, else of PASCAL-Context; or their
    numbers if there are others in number."""
    key = names_key(task)
    for names in ((meta or {}).get(key), TASKS[task].classes, PASCALContextMT.METAINFO.get(key)):
        if names is not None and len(names) == classes:
            return list(names)
    return [f'class {index}' for index in range(classes)]


def legend(task: str, label_map: np.ndarray, classes: int, meta: Mapping[str, Any] | None = None) -> str:
    """What the colours of a map mean, as HTML made of the drawing's own colours.

    Args:
        task: Name of the task.
        label_map: Map of the task, as :attr:`mmvmt.apis.ImagePrediction.maps` has it.
        classes: Number of classes, for a task with classes.
        meta: Meta information of the data, for its names and palettes.

    Returns:
        For classes those in the map and their shares of the pixels, the largest first; for the others their range.
    """
    rules, palette = TASKS[task], palette_of(task, meta)
    kind, channels = rules.kind, rules.channels
    unit = f' {html.escape(rules.unit)}' if rules.unit else ''
    # As a tensor, whose first axis has the channels whatever its sizes.
    low, high = robust_range([torch.from_numpy(label_map)], task) if kind in ('metric', 'values') else (0.0, 1.0)
    if kind == 'classes':
        counts, names = np.bincount(label_map.ravel(), minlength=classes), class_names(task, classes, meta)
        present = [int(index) for index in np.argsort(-counts, kind='stable') if counts[index]]
        entries = [
            _swatch(palette[index], f'{names[index]} {100 * counts[index] / label_map.size:.1f} %') for index in present
        ]
    elif channels == 2:
        # In the axes of the map, which are those of the picture unless the task declares others.
        signs = (rules.axes_in(meta) or NormalsAxes('right', 'down')).signs
        sides = dict(right=(1, 0), left=(-1, 0), up=(0, -1), down=(0, 1))
        vectors = np.array([[side * signs for side in sides.values()]], np.float32) * high
        entries = [_swatch(color, name) for color, name in zip(colorize(task, vectors, (0, high))[0], sides)]
        entries += [f'<span>white: 0, full colour: {high:.2f}{unit}</span>'] if kind == 'values' else []
    elif kind == 'vectors':
        # Drawn in one set of axes, whichever the map has.
        vectors = np.array([[NormalsAxes().direction(name) for name in DIRECTIONS]], np.float32)
        entries = [_swatch(color, name) for color, name in zip(colorize(task, vectors)[0], DIRECTIONS)]
    elif channels > 2:
        text = f'the first three values as red, green and blue, {low:.2f} to {high:.2f}{unit}'
        entries = [f'<span>{text}</span>']
    else:
        ramp = colorize(task, np.linspace(low, high, RAMP, dtype=np.float32)[None], (low, high), palette=palette)[0]
        ends = ('probability 0', '1') if kind == 'binary' else (f'{low:.2f}{unit}', f'{high:.2f}{unit}')
        bar = f'<b style="background: linear-gradient(to right, {", ".join(map(_css_color, ramp))})"></b>'
        entries = [f'<span>{ends[0]} {bar} {ends[1]}</span>']
    return f'<div class="legend">{"".join(entries)}</div>'


def _css_color(color: np.ndarray) -> str:
    return f'rgb({", ".join(str(int(level)) for level in color)})'


def _swatch(color: np.ndarray, text: str) -> str:
    return f'<span><i style="background: {_css_color(color)}"></i>{html.escape(text)}</span>'


def parameter_table(model: torch.nn.Module) -> str:
    """Parameters of a model by group, as a Markdown table; groups without any are left out."""
    groups = {name: count(parameters) for name, parameters in parameter_groups(model).items()}
    total = sum(groups.values())
    encoder = count(model.backbone.parameters()) - count(model.backbone.adapter_parameters())
    rows = [(PARTS[name], groups[name]) for name in PARTS if groups[name]]
    rows += [('**trained together**', total - groups['frozen']), ('**the whole model**', total)]
    lines = ['| part | parameters | of the model |', '|:---|---:|---:|']
    lines += [f'| {name} | {number:,} | {100 * number / total:.2f} % |' for name, number in rows]
    trained = groups['adapters'] + groups['norms_biases'] + groups['encoder_weights']
    return '\n'.join(
        [*lines, '', f'Trained in the encoder: {trained:,} parameters, {100 * trained / encoder:.2f} % of its size.']
    )


@dataclass(frozen=True)
class Result:
    """What the page shows of one picture.

    Args:
        image: The picture, ``(H, W, 3)`` uint8 RGB.
        drawn: By task its map in colours, ``(H, W, 3)`` uint8 RGB.
        legends: By task what the colours mean, HTML.
        seconds: Time for reading the picture and computing its maps.
    """

    image: np.ndarray
    drawn: dict[str, np.ndarray]
    legends: dict[str, str]
    seconds: float


def compute(inferencer: MultiTaskInferencer, path: str) -> Result:
    """What the page shows of a picture.

    Raises:
        ValueError: The file is no picture, or the picture is too large; the message names it without its folder.
    """
    name = Path(path).name
    start = time.perf_counter()
    try:
        (prediction,) = inferencer.predict(path)
    except (OSError, ValueError) as error:
        # Visitors know their file by its name; the folder is one of the server.
        raise ValueError(str(error).replace(path, name)) from error
    except torch.cuda.OutOfMemoryError as error:
        raise ValueError(f'picture {name!r} is too large for the memory of the GPU; make it smaller') from error
    maps, meta = prediction.maps, inferencer.dataset_meta  # on the CPU: nothing is left to compute
    seconds = time.perf_counter() - start
    return Result(
        cv2.cvtColor(prediction.image, cv2.COLOR_BGR2RGB),
        # Tensors say by their shape where the channels are; an array three pixels wide would not.
        {
            task: colorize(task, prediction.sample.pred.get(task), axes=inferencer.axes, palette=palette_of(task, meta))
            for task in maps
        },
        {task: legend(task, maps[task], inferencer.model.heads[task].output.channels, meta) for task in maps},
        seconds,
    )


def build_page(inferencer: MultiTaskInferencer, trained: Trained) -> Any:
    """The page, as ``gradio.Blocks``.

    Raises:
        ModuleNotFoundError: Gradio is not installed.
    """
    gr = import_gradio()
    tasks = [task for task in TASKS if task in inferencer.tasks]
    device = next(inferencer.model.parameters()).device

    def show(path: str) -> list[Any]:
        # What is shown is HTML, and file names are what somebody chose.
        name = html.escape(Path(path).name)
        try:
            result = compute(inferencer, path)
        except ValueError as error:
            nothing = [None] * (2 * len(tasks))
            return [
                None,
                f'<p class="failure">No maps: {html.escape(str(error))}</p>',
                gr.Column(visible=False),
                *nothing,
            ]
        height, width = result.image.shape[:2]
        message = f'<p><b>{name}</b>, {width} x {height} pixels: {result.seconds:.2f} s on {device}</p>'
        # Encoded once: the same file stands on the left of every slider.
        image = gr.processing_utils.save_img_array_to_cache(result.image, sliders[0].GRADIO_CACHE, format='png')
        pairs = [(image, result.drawn[task]) for task in tasks]
        return [None, message, gr.Column(visible=True), *pairs, *(result.legends[task] for task in tasks)]

    with gr.Blocks(title='mmvmt', analytics_enabled=False, delete_cache=(CACHE_SECONDS, CACHE_SECONDS)) as page:
        names = ', '.join(task.replace('_', ' ') for task in tasks)
        gr.Markdown(
            f'# One encoder, {len(tasks)} {"task" if len(tasks) == 1 else "tasks"}\n'
            f'{names[0].upper()}{names[1:]}, computed by `{Path(trained.config).name}` with the weights of '
            f'`{Path(trained.checkpoint).name}`.'
        )
        with gr.Row():
            with gr.Column(scale=1, min_width=260):
                picture = gr.File(label='Picture', file_types=['image'], height=170, elem_id='picture')
                status = gr.HTML('<p>Drop a picture, or click to choose one.</p>', elem_id='status')
                examples = gr.Dataset(
                    label='Examples',
                    components=[gr.Image(visible=False, type='filepath')],
                    samples=[[path] for path in trained.examples],
                    type='index',
                    visible=bool(trained.examples),
                    elem_id='examples',
                )
            with gr.Column(scale=3, min_width=320, visible=False) as results, gr.Row(elem_id='maps'):
                sliders, legends = [], []
                for task in tasks:
                    with gr.Column(min_width=0):
                        label = task.replace('_', ' ')
                        slider = gr.ImageSlider(label=label, format='png', max_height=420, elem_id=f'map-{task}')
                        sliders.append(slider)
                        legends.append(gr.HTML(elem_id=f'legend-{task}'))
        with gr.Accordion('Parameters', open=True):
            gr.Markdown(parameter_table(inferencer.model), elem_id='parameters')

        # One picture at a time: there is one model. The drop zone is emptied, ready for the next picture.
        event = dict(
            outputs=[picture, status, results, *sliders, *legends],
            show_progress_on=status,
            concurrency_limit=1,
            concurrency_id='model',
            api_visibility='private',
        )
        picture.upload(show, picture, **event)
        examples.click(lambda index: show(trained.examples[index]), examples, **event)
    return page


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', nargs='?', help='config file (default: the model that `make demo` trained)')
    parser.add_argument('checkpoint', nargs='?', help='checkpoint or adapter file')
    parser.add_argument('--tasks', help='tasks to compute, with commas between them (default: all of the model)')
    parser.add_argument('--device', help='device such as cuda:0 or cpu (default: a GPU if there is one)')
    parser.add_argument('--examples', nargs='+', metavar='PICTURE', help='pictures that the page offers')
    parser.add_argument('--host', default='127.0.0.1', help='address to listen on (default: this machine alone)')
    parser.add_argument('--port', type=int, default=7860, help='port to listen on (default: %(default)s)')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, help='override config entries, as key=value pairs'
    )
    add_trust_argument(parser)
    args = parser.parse_args(argv)
    if args.config and not args.checkpoint:
        parser.error('name a config and a checkpoint, or neither')
    if not 1 <= args.port <= 65535:
        parser.error(f'--port must be between 1 and 65535, got {args.port}')
    return args


def find_trained(args: argparse.Namespace) -> Trained:
    """What the arguments name, else what `make demo` left.

    Raises:
        FileNotFoundError: There is no finished demo, or an example does not exist.
    """
    trained = Trained(args.config, args.checkpoint) if args.config else find_demo(ROOT / DEMO_FOLDER)
    if args.examples:
        trained = replace(trained, examples=tuple(args.examples))
    missing = [path for path in trained.examples if not Path(path).is_file()]
    if missing:
        raise FileNotFoundError(f'example {missing[0]!r} does not exist')
    return trained


def check_address(host: str, port: int) -> None:
    """See that the page can listen there, before a model is loaded for it.

    Raises:
        OSError: It cannot.
    """
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ':' in host else socket.AF_INET).close()
    except OSError as error:
        raise OSError(
            f'cannot listen on {host}, port {port} ({error.strerror}): choose another --host or --port'
        ) from error


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        gr = import_gradio()
        trained = find_trained(args)
        check_address(args.host, args.port)
        args.config, args.checkpoint = trained.config, trained.checkpoint
        inferencer = build_inferencer(args, show_progress=False)
        page = build_page(inferencer, trained)
        page.launch(
            server_name=args.host,
            server_port=args.port,
            share=False,
            run_history=False,
            footer_links=[],
            quiet=True,
            prevent_thread_lock=True,
            css=CSS,
            theme=gr.themes.Default(font=['system-ui', 'sans-serif'], font_mono=['ui-monospace', 'monospace']),
        )
    except (ImportError, OSError, TypeError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f'{", ".join(inferencer.tasks)}: open {page.local_url} in a browser; Ctrl+C ends it', flush=True)
    page.block_thread()
    return 0


if __name__ == '__main__':
    sys.exit(main())
