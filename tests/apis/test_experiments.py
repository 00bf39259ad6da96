"""Commands, their records, and what is read from a training."""

import json
import os
import sys
import time
from pathlib import Path

import pytest
from mmengine.config import Config
from rich.console import Console

from mmvmt.apis import Stage, Stages, duration, fingerprint, read_training_log, schedule_options
from mmvmt.apis.experiments import Command

WRITE = 'import pathlib, sys; pathlib.Path(sys.argv[1]).write_text(sys.argv[2]); print(sys.argv[2])'


@pytest.fixture
def console():
    return Console(width=150, record=True, quiet=False, force_terminal=False)


@pytest.fixture
def stages(tmp_path, console):
    return Stages(tmp_path, console, tmp_path, facts=dict(hardware='a machine'))


def writing(name, path, text, **options):
    return Stage(name, f'Writing {name}', ['-c', WRITE, str(path), text], **options)


def test_a_finished_command_is_not_run_again_unless_arguments_or_inputs_differ(stages, tmp_path):
    target = tmp_path / 'target'
    (seconds,) = stages.run(writing('one', target, 'first', inputs='a'))
    assert target.read_text() == 'first'
    record = stages.record(writing('one', target, 'first', inputs='a'))
    assert record['seconds'] == seconds
    assert record['facts'] == dict(hardware='a machine')
    assert record['peak_memory_mib'] > 1

    target.write_text('untouched')
    assert stages.run(writing('one', target, 'first', inputs='a')) == [seconds]
    assert target.read_text() == 'untouched'
    stages.run(writing('one', target, 'first', inputs='b'))
    assert target.read_text() == 'first'
    stages.run(writing('one', target, 'second', inputs='b'))
    assert target.read_text() == 'second'


def test_a_failing_command_stops_a_run_and_shows_its_last_lines(stages, console):
    failing = Stage('bad', 'Failing', ['-c', 'print("the reason"); raise SystemExit(3)'])
    with pytest.raises(SystemExit, match=r'Failing failed with exit code 3; the whole log is in .*bad\.log'):
        stages.run(failing)
    assert 'the reason' in console.export_text()


def test_in_a_queue_a_failing_command_does_not_stop_the_others(stages, tmp_path):
    crash = Stage('crash', 'Crashing', ['-c', 'import os, signal; os.kill(os.getpid(), signal.SIGKILL)'])
    good = [writing(f'good{i}', tmp_path / f'good{i}', 'x') for i in range(3)]
    ended = []
    failures = stages.run_queue([crash, *good], jobs=2, on_end=lambda stage, reason: ended.append((stage.name, reason)))
    assert failures == {'crash': 'signal 9'}
    assert dict(ended) == {'crash': 'signal 9', 'good0': None, 'good1': None, 'good2': None}
    assert all((tmp_path / f'good{i}').read_text() == 'x' for i in range(3))
    assert stages.record(crash) is None


def test_one_job_keeps_the_order(stages, tmp_path, console):
    stages.run_queue([writing(name, tmp_path / name, name, group='g', work=2.0) for name in 'cab'], later=[('g', 4.0)])
    lines = [line for line in console.export_text().splitlines() if 'finished' in line]
    assert [line.split('Writing ')[1][0] for line in lines] == ['c', 'a', 'b']
    assert '3 of 4 left, about' in lines[0]
    assert '1 of 4 left, about' in lines[2]


@pytest.mark.parametrize('jobs, threads', [(1, '4'), (2, '2'), (8, '1')])
def test_the_cores_are_shared(tmp_path, console, monkeypatch, jobs, threads):
    monkeypatch.setenv('OMP_NUM_THREADS', '4')
    stage = Stage('threads', 'Threads', ['-c', 'import os; print(os.environ["OMP_NUM_THREADS"])'])
    stages = Stages(tmp_path, console, tmp_path)
    assert stages.run_queue([stage], jobs) == {}
    assert stages.log(stage).read_text().strip() == threads


def test_several_gpus_get_one_command_each(tmp_path, console, monkeypatch):
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '3,5')
    monkeypatch.setattr('torch.cuda.device_count', lambda: 2)
    code = 'import os, time; print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True); time.sleep(0.3)'
    queue = [Stage(f'gpu{i}', f'GPU {i}', ['-c', code]) for i in range(2)]
    stages = Stages(tmp_path, console, tmp_path)
    assert stages.run_queue(queue, jobs=2) == {}
    assert sorted(stages.log(stage).read_text().strip() for stage in queue) == ['3', '5']


TRAIN = """
import pathlib, sys
folder = pathlib.Path(sys.argv[-1])
folder.mkdir(exist_ok=True)
(folder / 'arguments').write_text(' '.join(sys.argv[1:-1]))
(folder / 'last_checkpoint').write_text('x')
raise SystemExit(int((folder.parent / 'code').read_text()))
"""


def test_an_interrupted_training_resumes_and_another_one_starts_anew(stages, tmp_path):
    script, work_dir = tmp_path / 'train.py', tmp_path / 'work_dir'
    script.write_text(TRAIN)
    stage = Stage('train', 'Training', [str(script), str(work_dir)], work_dir=work_dir)
    work_dir.mkdir()
    (work_dir / 'last_checkpoint').write_text('of something else')

    (tmp_path / 'code').write_text('1')
    assert stages.run_queue([stage]) == {'train': 'exit code 1'}
    assert (work_dir / 'arguments').read_text() == ''
    other = Stage('train', 'Training', [str(script), str(work_dir)], inputs='changed', work_dir=work_dir)
    (work_dir / 'left over').touch()
    assert stages.run_queue([other]) == {'train': 'exit code 1'}
    assert (work_dir / 'arguments').read_text() == ''
    assert not (work_dir / 'left over').exists()
    (tmp_path / 'code').write_text('0')
    assert stages.run_queue([other]) == {}
    assert (work_dir / 'arguments').read_text() == '--resume'


def test_stopping_ends_a_command_and_what_it_started(tmp_path):
    code = (
        'import os, signal, subprocess, sys, time\n'
        'signal.signal(signal.SIGTERM, signal.SIG_IGN)\n'
        'child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])\n'
        'print(child.pid, flush=True)\n'
        'time.sleep(600)\n'
    )
    command = Command(['-c', code], tmp_path / 'log', tmp_path, os.environ)
    lines = []
    while not lines:
        time.sleep(0.05)
        lines = command.lines()
    command.stop(patience=0.2)
    assert command.poll() == -9
    stat = Path(f'/proc/{int(lines[0])}/stat')
    deadline = time.monotonic() + 10
    # An orphan that nobody has waited for yet is a zombie.
    while stat.exists() and ') Z ' not in stat.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_an_interrupt_ends_the_running_commands(tmp_path, console):
    started = []

    class Endless(Command):
        def __init__(self, *args):
            super().__init__(*args)
            started.append(self)

        def lines(self):
            raise KeyboardInterrupt

    stages = Stages(tmp_path, console, tmp_path, launch=Endless)
    with pytest.raises(KeyboardInterrupt):
        stages.run_queue([Stage('endless', 'Endless', ['-c', 'import time; time.sleep(600)'])])
    assert started[0].poll() < 0


def test_a_terminal_gets_bars(tmp_path):
    console = Console(width=150, record=True, force_terminal=True, file=open(os.devnull, 'w'))  # noqa: SIM115
    code = 'print("Iter(train) [ 3/10]  lr: 1  loss: 0.5", flush=True); import time; time.sleep(0.4)'
    Stages(tmp_path, console, tmp_path).run_queue([Stage(f's{i}', f'Stage {i}', ['-c', code]) for i in range(2)])
    text = console.export_text()
    assert 'train 3/10, loss 0.5' in text
    assert '1 of 2 left' in text
    console.file.close()


def scalars(work_dir, start, entries, end='\n'):
    folder = work_dir / start / 'vis_data'
    folder.mkdir(parents=True)
    (folder / 'scalars.json').write_text('\n'.join(json.dumps(entry) for entry in entries) + end)


def test_a_training_log_joins_all_starts(tmp_path):
    first = [dict(loss=2.0, time=0.1, step=5, memory=100), dict(loss=2.0, time=0.5, step=10, memory=300)]
    scalars(tmp_path, '20260101_000000', first, end='\n{"loss": 1.0, "ti')
    last = [dict(loss=1.0, time=0.2, step=20, memory=200), {'semseg/mIoU': 3.0, 'time': 9.0, 'step': 20}]
    scalars(tmp_path, '20260102_000000', [{'semseg/mIoU': 1.0, 'step': 10}, *last])
    log = read_training_log(tmp_path, 20)
    assert log.metrics == {'semseg/mIoU': 3.0}
    assert log.seconds_per_iteration == 0.2
    assert log.memory_mib == 300
    assert log.diverged_at is None
    assert read_training_log(tmp_path, 40).metrics is None
    empty = read_training_log(tmp_path / 'nothing', 20)
    assert (empty.metrics, empty.seconds_per_iteration, empty.memory_mib) == (None, None, None)


def test_a_training_log_tells_divergence(tmp_path):
    scalars(tmp_path, 'run', [dict(loss=1.0, step=1), dict(loss=float('nan'), step=2), dict(loss=1.0, step=3)])
    assert read_training_log(tmp_path, 3).diverged_at == 2


def test_schedule_options_fit_the_configs():
    assert schedule_options(None) == []
    cfg = Config.fromfile(Path(__file__).parents[2] / 'configs/vmt/swin_nano_synthetic.py')
    cfg.merge_from_dict({key: int(value) for key, value in (o.split('=') for o in schedule_options(40, 0.25))})
    assert (cfg.train_cfg.max_iters, cfg.train_cfg.val_interval) == (40, 40)
    assert [(s.begin, s.end) for s in cfg.param_scheduler] == [(0, 10), (10, 40)]


def test_a_fingerprint_sees_inherited_values_and_files(tmp_path):
    base, config, data = tmp_path / 'base.py', tmp_path / 'config.py', tmp_path / 'data'
    base.write_text('a = 1\n')
    config.write_text("_base_ = './base.py'\nb = 2\n")
    data.write_bytes(b'1')
    first = fingerprint(config, data)
    config.write_text("# A comment changes nothing.\n_base_ = './base.py'\nb = 2\n")
    assert fingerprint(config, data) == first
    base.write_text('a = 3\n')
    second = fingerprint(config, data)
    data.write_bytes(b'2')
    assert len({first, second, fingerprint(config, data)}) == 3


@pytest.mark.parametrize('seconds, text', [(50, '50 s'), (720, '12 min'), (7500, '2 h 05 min')])
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_commands_run_with_this_interpreter(stages, tmp_path):
    stage = Stage('which', 'Which', ['-c', 'import sys, os; print(sys.executable, os.getcwd())'])
    stages.run(stage)
    assert stages.log(stage).read_text().split() == [sys.executable, str(tmp_path)]
