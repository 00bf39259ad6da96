#!/usr/bin/env python3
"""Stands in for Python in the rules of the comparison: leaves behind what a command would, and notes it in ``$RAN``,
with the time.

A training scores best at rate 4e-3 of the heads and multiplier 0.2. What matches the pattern ``$FAILS`` fails.
"""

import json
import math
import os
import re
import sys
import time
from pathlib import Path

FIGURES = {'semseg': 'mIoU', 'human_parts': 'mIoU', 'saliency': 'mIoU', 'normals': 'mean'}
CHOSEN = dict(learning_rate=4e-3, multiplier=0.2, edge_of_grid=None, tried=[])
COUNTS = dict(adapters=10, norms_biases=0, encoder_weights=0, decoders=50, trainable=60, encoder=100, percent_x=1.0)


def main(words):
    if words[:2] == ['-m', 'snakemake']:
        # A job of a cluster is Snakemake again.
        program = Path(__file__).with_name('snakemake_with_stubs.py')
        os.execv(os.environ['REAL'], [os.environ['REAL'], str(program), *words[2:]])
    line = ' '.join(words)
    with open(os.environ['RAN'], 'a') as file:
        file.write(line + '\n')
    try:
        return stand_in(words, line)
    finally:
        # In seconds since the machine was started; the first is known to a hundredth.
        begin = int(Path('/proc/self/stat').read_text().rpartition(')')[2].split()[19]) / os.sysconf('SC_CLK_TCK')
        with open(os.environ['RAN'], 'a') as file:
            file.write(f'ran: {begin + 0.01} {time.clock_gettime(time.CLOCK_BOOTTIME)}\n')


def stand_in(words, line):
    if os.environ.get('FAILS') and re.search(os.environ['FAILS'], line):
        print('the reason')
        return 3
    options = dict(word.split('=', 1) for word in words if '=' in word)
    tool = Path(words[0]).stem
    if tool == 'make_synthetic':
        Path(words[2], 'synthetic.json').write_text(line)
    elif tool == 'constant_predictor':
        figures = {f'{task}/{key}': 40.0 if task == 'normals' else 10.0 for task, key in FIGURES.items()}
        Path(words[words.index('--out') + 1]).write_text(json.dumps(dict(metrics=figures)))
    elif tool == 'count_params':
        print('a table')
        print(json.dumps(COUNTS))
    elif words[2] == 'pretrain':
        Path(options['target']).write_text(options['config'] + options['iters'])
    elif words[2] == 'train':
        record = Path(options['record'])
        multiplier = float(options.get('candidate', 'x0.2').lstrip('xlr'))
        tasks = [task for task in FIGURES if record.parent.name.endswith(f'-{task}')] or FIGURES
        quality = 20 - abs(math.log(multiplier / 0.2)) + int(options['seed']) / 100
        figures = {task: 400 / quality if task == 'normals' else quality for task in tasks}
        outcome = dict(figures=figures, metrics={}, seed=int(options['seed']), seconds_per_iteration=0.25, error=None)
        outcome |= dict(learning_rate=4e-3, multiplier=multiplier, peak_memory_mib=1.0, command=line)
        record.write_text(json.dumps(outcome | dict(versions={}, hardware={})))
    elif words[2] == 'choose':
        Path(f'rates/{options["encoder"]}/{options["model"]}.json').write_text(json.dumps(CHOSEN))
    elif words[2] == 'collect':
        folder = Path(options.get('into', '.'))
        folder.mkdir(exist_ok=True)
        for suffix in ('json', 'md', 'png'):
            (folder / f'{options["name"]}.{suffix}').write_text('{}')
    return 0


sys.exit(main(sys.argv[1:]))
