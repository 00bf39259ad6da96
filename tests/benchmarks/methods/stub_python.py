#!/usr/bin/env python3
"""Stands in for Python in the rules of the comparison: leaves behind what a command would, and notes it in ``$RAN``,
with the time. What matches the pattern ``$FAILS`` fails.
"""

import json
import os
import re
import sys
import time
from pathlib import Path

CHOSEN = dict(learning_rate=4e-3, multiplier=0.2, edge_of_grid=None, tried={})


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
    place = '/'.join(options[key] for key in ('regime', 'model') if key in options)
    if words[2] == 'search':
        Path(f'rates/{place}.json').write_text(json.dumps(CHOSEN))
    elif words[2] == 'train':
        Path(f'trainings/{place}/seed{options["seed"]}.json').write_text('{}')
    elif words[2] == 'constant':
        Path('constant_predictor.json').write_text('{}')
    elif words[2] == 'collect':
        folder = Path(options.get('into', '.'))
        folder.mkdir(exist_ok=True)
        for suffix in ('md', 'png'):
            (folder / f'{options["name"]}.{suffix}').write_text('')
    return 0


sys.exit(main(sys.argv[1:]))
