"""Add a task to a trained model: only its own scale, shift and head train, and the outputs of the other tasks stay
identical, which is checked on images before and after. Methods whose tasks depend on each other cannot keep them: that
is said first. Writes a config and a checkpoint of the enlarged model."""

import argparse
import io
import json
import os.path as osp
import sys
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.config import Config, DictAction
from mmengine.dataset import pseudo_collate
from mmengine.runner import Runner
from torch import Tensor

import mmvmt  # noqa: F401  makes the scope known before the config is read
from mmvmt.apis.tasks import add_task, enlarged_config, head_config, interacting_methods, training_config
from mmvmt.apis.weights import build_model, declare_tasks_of, load_weights
from mmvmt.engine.adapter_file import read_adapter
from mmvmt.engine.files import latest_checkpoint, write_atomically
from mmvmt.engine.inputs import comes_without_encoder, is_there, missing_inputs
from mmvmt.engine.provenance import run_record
from mmvmt.engine.run_config import add_trust_argument, read_config, set_amp
from mmvmt.models import MultiTaskEncoderDecoder, parameter_groups
from mmvmt.models.identity import model_record
from mmvmt.models.parameter_groups import count
from mmvmt.registry import DATASETS
from mmvmt.structures import declare_tasks


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config that the model was trained with')
    parser.add_argument('checkpoint', help='its checkpoint or adapter file')
    parser.add_argument('--task', required=True, help='the task to add, such as depth')
    parser.add_argument(
        '--declare',
        nargs='+',
        metavar='KEY=VALUE',
        help='what the task is, if the package does not know it, such as kind=classes classes=5; or a config or JSON '
        'file whose entry tasks declares it',
    )
    parser.add_argument(
        '--head',
        nargs='+',
        action=DictAction,
        help='options of its head, as key=value pairs such as channels=64 output.num_classes=5 '
        '(default: as the first head of the config)',
    )
    parser.add_argument('--data-root', help='folder of the data set, for every data set of the config')
    parser.add_argument('--work-dir', help='where everything goes (default: work_dirs/CONFIG NAME_TASK)')
    parser.add_argument('--images', type=int, default=8, help='validation images to check outputs on (default: 8)')
    parser.add_argument('--amp', action='store_true', help='train in mixed precision')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, help='override config entries, as key=value pairs'
    )
    add_trust_argument(parser)
    args = parser.parse_args(argv)
    if args.images < 1:
        parser.error(f'--images must be at least 1, got {args.images}')
    return args


def declaration_of(task: str, given: Sequence[str] | None) -> dict[str, Any]:
    """The declaration of a task on the command line: pairs of keys and values, or a file that has it."""
    if given is None:
        return {}
    if len(given) == 1 and '=' not in given[0]:
        tasks = Config.fromfile(given[0]).to_dict().get('tasks')
        if not isinstance(tasks, dict) or not tasks.get(task):
            raise ValueError(f'{given[0]} declares no task {task!r}: its entry tasks is {tasks!r}')
        return tasks[task]
    wrong = [pair for pair in given if '=' not in pair]
    if wrong:
        raise ValueError(f'--declare takes key=value pairs or one file, got {wrong[0]!r}')
    parser = argparse.ArgumentParser()
    parser.add_argument('--declare', nargs='+', action=DictAction)
    declared = Config()
    declared.merge_from_dict(parser.parse_args(['--declare', *given]).declare)
    return declared.to_dict()


def read_images(cfg: Config, number: int) -> list[dict[str, Any]]:
    """The first images of the validation set, each as a batch of one."""
    if cfg.get('val_dataloader') is None:
        raise ValueError('the config has no val_dataloader, whose images the outputs are checked on')
    dataset = DATASETS.build(cfg.val_dataloader.dataset)
    return [pseudo_collate([dataset[index]]) for index in range(min(number, len(dataset)))]


@torch.no_grad()
def outputs_of(
    model: MultiTaskEncoderDecoder, images: Sequence[dict[str, Any]], tasks: Sequence[str]
) -> dict[str, list[Tensor]]:
    """Logits of some tasks for every image."""
    model.eval()
    inputs = [model.data_preprocessor(batch, False)['inputs'] for batch in images]
    logits = [model.encode_decode(batch, tuple(tasks)) for batch in inputs]
    return {task: [each[task].cpu() for each in logits] for task in tasks}


def save_model(model: MultiTaskEncoderDecoder, path: str, iteration: int) -> None:
    """Write a checkpoint that tools/test.py and load_from read."""
    buffer = io.BytesIO()
    meta = model_record(model) | dict(iter=iteration)
    torch.save(dict(meta=meta, state_dict=model.state_dict()), buffer)
    write_atomically(path, buffer.getvalue())


def train(cfg: Config, task: str, result: MultiTaskEncoderDecoder) -> int:
    """Train the task and load the outcome into a model of the enlarged config.

    Returns:
        Number of iterations.
    """
    runner = Runner.from_cfg(cfg)
    # A validation meanwhile is about the new task alone.
    runner.model.set_active_tasks((task,))
    runner.train()
    load_weights(result, latest_checkpoint(cfg.work_dir))
    return runner.iter


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        name = osp.splitext(osp.basename(args.config))[0]
        work_dir = args.work_dir or osp.join('work_dirs', f'{name}_{args.task}')
        args.checkpoint = osp.expanduser(args.checkpoint)
        cfg = read_config(args.config, args.cfg_options, args.data_root, work_dir)
        declare_tasks_of(cfg, args.checkpoint, args.trust_checkpoint)
        declare_tasks({args.task: declaration_of(args.task, args.declare)})
        head = head_config(cfg, args.task, args.head)
        enlarged = enlarged_config(cfg, args.task, head)
        exists = is_there(args.checkpoint)
        missing = missing_inputs(
            enlarged,
            ('train_dataloader', 'val_dataloader'),
            weights=exists and comes_without_encoder(args.checkpoint, args.trust_checkpoint),
        )
        if not exists:
            missing.append(f'checkpoint: file {args.checkpoint!r} does not exist')
        if missing:
            print('Cannot add a task yet:', *(f'- {line}' for line in missing), sep='\n', file=sys.stderr)
            return 2
        model = build_model(cfg)
        old_tasks = model.tasks
        load_weights(model, args.checkpoint, args.trust_checkpoint)
        images = read_images(enlarged, args.images)
        before = outputs_of(model, images, old_tasks)
        add_task(model, args.task, head)
    except (OSError, KeyError, TypeError, ValueError) as error:
        print(f'add_task.py: {error}', file=sys.stderr)
        return 1

    paths = {name: osp.join(work_dir, name) for name in ('config.py', 'train.py', 'start.pth', 'model.pth')}
    save_model(model, paths['start.pth'], iteration=0)
    trained = count(p for group, ps in parameter_groups(model).items() if group != 'frozen' for p in ps)
    plan = training_config(enlarged, args.task, load_from=paths['start.pth'])
    if args.amp:
        set_amp(plan)
    enlarged.dump(paths['config.py'])
    plan.dump(paths['train.py'])
    print(f'training {args.task}: {trained:,} of {count(model.parameters()):,} parameters')

    # As everybody will build it: mmengine sorts the keys of the configs that it writes, and so the tasks.
    result = build_model(Config.fromfile(paths['config.py']))
    iterations = train(plan, args.task, result)
    save_model(result, paths['model.pth'], iterations)
    after = outputs_of(result, images, old_tasks)
    identical = {task: all(torch.equal(a, b) for a, b in zip(before[task], after[task])) for task in old_tasks}

    adapter = osp.join(work_dir, 'adapter.safetensors')
    record = run_record(seed=plan.get('randomness', {}).get('seed')) | dict(
        task=args.task,
        trained_parameters=trained,
        iterations=iterations,
        images=len(images),
        identical=identical,
        metrics=read_adapter(adapter).manifest['metrics'] if osp.isfile(adapter) else {},
    )
    write_atomically(osp.join(work_dir, 'added_task.json'), (json.dumps(record, indent=2) + '\n').encode())
    for task, same in identical.items():
        print(
            f'{task}: outputs on {len(images)} images {"identical before and after, bit for bit" if same else "DIFFER"}'
        )
    for name, value in record['metrics'].items():
        print(f'{name}: {value}')
    print(f'test it with: python tools/test.py {paths["config.py"]} {paths["model.pth"]}')
    if not all(identical.values()) and not interacting_methods(model):
        print('add_task.py: outputs of other tasks have changed', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
