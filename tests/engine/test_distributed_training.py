"""Two CPU ranks compute what one process does: gradients, a whole training, and its evaluation."""

import json
import random

import commands
import pytest
import torch
from distributed import run_ranks
from tiny import FCN, FOUR_TASKS, GN, UPER, batch, losses_of, mmseg_heads_cfg, perturb, tiny_model

from mmvmt.registry import MODELS
from mmvmt.structures import TASKS


def uneven_batch():
    """Four images whose labelled pixels differ widely; the last two have none for human parts."""
    data = batch(sizes=((64, 64),) * 4)
    for index, sample in enumerate(data['data_samples']):
        for task in FOUR_TASKS:
            sample.gt.get(task)[:, : 15 * index] = TASKS[task].ignore
        if index >= 2:
            sample.gt.human_parts.fill_(TASKS['human_parts'].ignore)
    return data


def part(data, indices):
    return {key: [values[i] for i in indices] for key, values in data.items()}


def gradients(model):
    return {name.removeprefix('module.'): p.grad for name, p in model.named_parameters() if p.grad is not None}


def mmseg_model():
    """Heads of mmseg behind a neck that tasks share, one of which asks the other ranks for its statistics."""
    cfg = mmseg_heads_cfg(neck=dict(type='FPN', out_channels=8, num_outs=4))
    ema = dict(type='EMAHead', channels=8, ema_channels=8, num_bases=2, num_stages=2, norm_cfg=GN, dropout_ratio=0)
    cfg['heads']['semseg'] |= dict(decode_head=dict(UPER, dropout_ratio=0), auxiliary_head=ema)
    cfg['heads']['normals']['decode_head'] = dict(FCN, dropout_ratio=0)
    torch.manual_seed(0)
    model = MODELS.build(cfg)
    perturb(model)
    return model


def sum_of(losses):
    """What mmengine adds up."""
    return sum(loss for name, loss in losses.items() if 'loss' in name)


def gradients_of_rank(rank, world_size):
    from mmengine.model import MMDistributedDataParallel

    found = []
    for model in (tiny_model().train(), mmseg_model()):
        wrapped = MMDistributedDataParallel(model, device_ids=None, broadcast_buffers=False)
        data = part(uneven_batch(), range(2 * rank, 2 * rank + 2))
        losses = wrapped(**model.data_preprocessor(data, True), mode='loss')
        sum_of(losses).backward()
        found.append((gradients(wrapped), {name: loss.item() for name, loss in losses.items()}))
    return found


def test_two_ranks_give_the_gradients_of_one_process():
    ranks = run_ranks(gradients_of_rank, 2)
    for model, (first, losses_0), (second, losses_1) in zip((tiny_model().train(), mmseg_model()), *ranks):
        losses = losses_of(model, uneven_batch())
        sum_of(losses).backward()
        expected = gradients(model)
        assert expected.keys() == first.keys() == {n for n, p in model.named_parameters() if p.requires_grad}
        for name, gradient in expected.items():
            assert torch.equal(first[name], second[name]), name
            torch.testing.assert_close(first[name], gradient, atol=1e-5, rtol=1e-4, msg=name)
        for name, loss in losses.items():
            assert (losses_0[name] + losses_1[name]) / 2 == pytest.approx(loss.item(), rel=1e-4), name


def train(config, work_dir, ranks, batch_size):
    arguments = [config, '--work-dir', work_dir, '--cfg-options', f'train_dataloader.batch_size={batch_size}']
    arguments += ['val_cfg=None', 'val_dataloader=None', 'val_evaluator=None']
    if ranks == 1:
        commands.run('tools/train.py', *arguments)
    else:
        # A wrapper of one's own, and seeds that differ by rank: neither changes what the ranks compute together.
        arguments += ['randomness.diff_rank_seed=True', 'model_wrapper_cfg.type=MMDistributedDataParallel']
        arguments += ['model_wrapper_cfg.find_unused_parameters=True']
        command = ['tools/dist_train.sh', str(arguments[0]), str(ranks), *map(str, arguments[1:])]
        commands.run_command(command, PORT=str(random.SystemRandom().randrange(20_000, 60_000)))
    return commands.weights(work_dir)


def evaluate(config, checkpoint, out, ranks):
    arguments = ['tools/test.py', config, checkpoint, '--work-dir', out / 'log', '--out', out]
    if ranks == 1:
        commands.run(*arguments)
    else:
        # What tools/dist_test.sh has torchrun start is a test of its own; a fork has the packages imported.
        joined = dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(random.SystemRandom().randrange(20_000, 60_000)))
        joined |= dict(WORLD_SIZE=str(ranks), LOCAL_WORLD_SIZE=str(ranks))
        logs = [out.with_suffix(f'.{rank}') for rank in range(ranks)]
        started = [
            commands.Forked([*arguments, '--launcher', 'pytorch'], log, RANK=str(rank), LOCAL_RANK=str(rank), **joined)
            for rank, log in enumerate(logs)
        ]
        for process, log in zip(started, logs):
            assert process.wait() == 0, log.read_text()[-3000:]
    return json.loads((out / 'metrics.json').read_text())['metrics'], sorted(
        p.name for p in (out / 'normals').iterdir()
    )


def test_training_and_testing_on_two_ranks_equal_one_process(tiny_config, tmp_path):
    one = train(tiny_config, tmp_path / 'one', 1, 4)
    two = train(tiny_config, tmp_path / 'two', 2, 2)
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=2e-4, rtol=1e-3, msg=name)

    checkpoint = tmp_path / 'two' / 'iter_4.pth'
    expected, pictures = evaluate(tiny_config, checkpoint, tmp_path / 'test_one', 1)
    got, pictures_of_two = evaluate(tiny_config, checkpoint, tmp_path / 'test_two', 2)
    assert len(pictures) == 5
    assert pictures == pictures_of_two
    for name in expected:
        if '/' in name:
            assert got[name] == pytest.approx(expected[name], rel=1e-5, abs=1e-6, nan_ok=True), name
