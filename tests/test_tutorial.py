"""The tutorial, run literally: its commands in order, each in a process of its own, on a folder as it describes one.

Only sizes are others: the encoder, the heads and the crops are tiny, and training has four steps.
"""

import json
import re
import shlex

import commands
import cv2
import doc_checks
import numpy as np
import pytest
import torch
import write_docs
from commands import ROOT
from mmengine.config import Config
from own_folder import LABELS, TASKS, build_own_folder
from PIL import Image

from mmvmt.compat import RECORDS_GRAPHS
from mmvmt.engine.adapter_file import read_adapter
from mmvmt.models.checkpoint import read_checkpoint
from mmvmt.registry import MODELS

PAGE = doc_checks.Page(ROOT / 'docs/tutorial.md')
TEMPLATE = ROOT / 'configs/custom/three_tasks.py'
SWIN = dict(embed_dims=8, depths=(1, 1), num_heads=(1, 2), strides=(4, 2), out_indices=(0, 1), window_size=4)
TINY = {
    "'../_base_/": f"'{ROOT}/configs/_base_/",
    "data_root = 'data/fields'": "data_root = '{root}/data/fields'",
    '        embed_dims=96,\n        depths=(2, 2, 6, 2),\n        num_heads=(3, 6, 12, 24),\n': f'        **{SWIN},\n',
    '    heads=dict(type': "    task_weights=dict(type='mmvmt.UncertaintyWeights'),\n    heads=dict(type",
    'channels=256': "channels=8, norm_cfg=dict(type='GN', num_groups=2)",
    'crop_size=(512, 512)': 'crop_size=(32, 32)',
    'batch_size=8': 'batch_size=2',
    'num_workers=4': 'num_workers=0',
    'persistent_workers=True': 'persistent_workers=False',
    'max_iters = 10000': 'max_iters = 4',
    'val_interval=2000': 'val_interval=4',
    "'https://mmassets.onedl.ai/mmsegmentation/v0.5/pretrain/swin/'": "'{root}/'",
    "'swin_tiny_patch4_window7_224_20220317-1cdeb081.pth'": "'encoder.pth'",
    'begin=0, end=500': 'begin=0, end=1',
    'begin=500, end': 'begin=1, end',
    'dict(checkpoint=dict(interval=2000))': 'dict(checkpoint=dict(interval=2), logger=dict(interval=1))',
}
"""What becomes of the template; every line that is named here has to be there. Weights of losses that are learned are
added, since a resumed training has to go on with them."""


def commands_of_page():
    """The words of every command that the tutorial says to type."""
    blocks = [code for code in PAGE.code if not code.inline and doc_checks.is_shell(code)]
    return [words for code in blocks for _, words in doc_checks.command_lines(code.text)]


class Walk:
    """Somebody who follows the page in a folder."""

    def __init__(self, root):
        self.root = root
        self.folder = build_own_folder(root / 'data/fields', 15)
        self.said = {}

    def prepare(self):
        """The folder as the page describes it, the encoder's weights, and the config with tiny sizes."""
        shape = (40, 60)
        for index, img_id in enumerate(self.folder.ids):
            path = self.folder.root / f'height/{img_id}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full(shape, 500 + 100 * index, np.uint16)).save(path)
        for code in PAGE.code:
            if code.language == 'python' and 'lists/train.txt' in code.text:
                exec(compile(self.mine(code.text), code.where, 'exec'), {})
        torch.manual_seed(0)
        encoder = MODELS.build(dict(type='mmseg.SwinTransformer', **SWIN))
        torch.save(dict(state_dict=encoder.state_dict()), self.root / 'encoder.pth')
        text = TEMPLATE.read_text()
        for old, new in TINY.items():
            assert old in text, old
            text = text.replace(old, new.replace('{root}', str(self.root)))
        (self.root / 'three_tasks.py').write_text(text)

    def mine(self, text):
        """A text of the page with the places and sizes of this folder."""
        text = text.replace(str(TEMPLATE.relative_to(ROOT)), str(self.root / 'three_tasks.py'))
        text = re.sub(r'\b(data/fields|work_dirs/)', rf'{self.root}/\1', text)
        return text.replace('iter_10000', 'iter_4').replace('512', '64')

    def follow(self, words):
        """Type a command of the page."""
        command = ' '.join(words)
        arguments = [self.mine(word) for word in words[1:]]
        assert words[0] == 'python'
        if arguments[0] == 'demo/web.py':
            self.said[command] = self.open_page(arguments[1:])
            return
        if arguments[0] == 'tools/train.py' and '--resume' not in arguments:
            # The interruption that the page speaks of.
            arguments += ['--cfg-options', 'train_cfg.max_iters=2']
        if arguments[0] == 'tools/deployment/export_onnx.py' and not RECORDS_GRAPHS:
            return
        done = commands.run(*arguments)
        self.said[command] = done.stdout + done.stderr

    @staticmethod
    def open_page(arguments):
        """What the web page computes and says of its example, without a browser."""
        web = write_docs.load_tool('demo/web.py')
        args = web.parse_args(arguments)
        trained = web.find_trained(args)
        result = web.compute(web.build_inferencer(args), trained.examples[0])
        return ' '.join(result.legends.values()), result.drawn

    def output(self, *parts):
        """What the command said whose line holds these parts."""
        (found,) = (said for command, said in self.said.items() if all(part in command for part in parts))
        return found


@pytest.fixture(scope='module')
def walk(tmp_path_factory):
    walk = Walk(tmp_path_factory.mktemp('tutorial'))
    walk.prepare()
    before = {path: path.stat().st_mtime_ns for path in walk.folder.root.rglob('*')}
    for words in commands_of_page():
        walk.follow(words)
    assert {path: path.stat().st_mtime_ns for path in walk.folder.root.rglob('*')} == before
    return walk


def test_the_page_and_the_template_say_the_same():
    (block,) = (code for code in PAGE.code if code.language == 'python' and 'tasks = dict(' in code.text)
    said, template = {}, Config.fromfile(TEMPLATE)
    exec(block.text, said)
    for task, fields in said['tasks'].items():
        assert fields.items() <= dict(template.tasks[task]).items()
    assert said['labels'] == {task: entry for task, entry in template.labels.to_dict().items() if task in said['tasks']}
    assert said['images'] == template.images
    assert {task: fields['kind'] for task, fields in TASKS.items()} == {t: f['kind'] for t, f in said['tasks'].items()}
    assert said['labels'] == LABELS


def test_the_template_explains_itself():
    for block in TEMPLATE.read_text().split('\n\n'):
        assert block.startswith('#'), block


def test_the_check_counts_labels_and_proposes(walk):
    said = walk.output('check_dataset.py')
    assert re.search(r'proposal, lanes, train: \d+ of 12 images have no label', said)
    assert 'proposal, crops, train: share of labelled pixels: ' in said
    assert said.splitlines()[-1] == 'usable'
    assert len(list((walk.root / 'work_dirs/fields/samples').iterdir())) == 4


def test_the_training_goes_on_after_its_interruption(walk):
    work_dir = walk.root / 'work_dirs/fields'
    first, second = (said for command, said in walk.said.items() if 'tools/train.py' in command)
    assert 'images, with labels: crops 12, lanes ' in first
    assert 'Iter(train) [2/2]' in first
    assert 'Iter(train) [1/4]' not in second
    assert 'Iter(train) [4/4]' in second
    assert 'crops.weight: ' in first
    checkpoint = read_checkpoint(str(work_dir / 'iter_4.pth'))
    learned = {
        name: v for name, v in checkpoint['state_dict'].items() if name.startswith('task_weights.log_variances.')
    }
    assert len(learned) == 3
    assert all(value != 0 for value in learned.values())
    assert set(checkpoint['meta']['dataset_meta']['task_declarations']) == set(TASKS)
    declared = checkpoint['meta']['mmvmt_tasks']
    assert {task: fields['kind'] for task, fields in declared.items()} == {t: f['kind'] for t, f in TASKS.items()}
    assert (
        json.loads(json.dumps(declared)) == read_adapter(work_dir / 'adapter.safetensors').manifest['task_declarations']
    )


def test_the_test_scores_and_shows_every_task(walk):
    work_dir = walk.root / 'work_dirs/fields'
    metrics = json.loads((work_dir / 'results/metrics.json').read_text())['metrics']
    assert {'crops/mIoU', 'lanes/mIoU', 'albedo/rmse', 'albedo/mae'} <= set(metrics)
    ids = (walk.folder.root / 'lists/val.txt').read_text().split()
    assert len(ids) == 3
    for img_id in ids:
        crops = cv2.imread(str(work_dir / f'results/crops/{img_id}.png'), cv2.IMREAD_UNCHANGED)
        assert crops.shape == (40, 60)
        assert crops.max() <= 2
        assert np.load(work_dir / f'results/albedo/{img_id}.npy').shape == (40, 60, 3)
    assert len(list((work_dir / 'pictures').rglob('*.png'))) == 3


def test_the_adapter_file_alone_knows_the_tasks(walk):
    maps = walk.root / 'work_dirs/fields/maps'
    assert {path.name for path in maps.iterdir()} >= set(TASKS)
    legends, drawn = walk.output('demo/web.py')
    assert set(drawn) == set(TASKS)
    assert any(name in legends for name in TASKS['crops']['classes'])


@pytest.mark.skipif(not RECORDS_GRAPHS, reason='graphs are recorded from PyTorch 2.7 on')
def test_the_graph_says_what_its_tasks_are(walk):
    onnx = pytest.importorskip('onnx')
    model = onnx.load(walk.root / 'work_dirs/fields/model.onnx')
    assert [output.name for output in model.graph.output] == [*TASKS]
    described = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(described['outputs'])['albedo'] == dict(kind='values', channels=3)
    assert json.loads(described['task_declarations'])['crops']['classes'] == TASKS['crops']['classes']


def test_the_fourth_task_leaves_the_others_as_they_were(walk):
    record = json.loads((walk.root / 'work_dirs/fields_height/added_task.json').read_text())
    assert record['identical'] == dict.fromkeys(TASKS, True)
    assert 'height/rmse' in record['metrics']
    said = walk.output('fields_height/model.pth')
    assert all(name in said for name in (*TASKS, 'height'))


def test_every_command_was_followed(walk):
    tools = {shlex.split(command)[1] for command in walk.said}
    assert tools >= {
        'tools/dataset/check_dataset.py',
        'tools/dataset/browse_dataset.py',
        'tools/train.py',
        'tools/test.py',
        'demo/image_demo.py',
        'demo/web.py',
        'tools/add_task.py',
    }
