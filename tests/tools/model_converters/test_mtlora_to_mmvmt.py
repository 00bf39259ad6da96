"""Weights under the names of MTLoRA's public code give the outputs that its formulas give, written out over these names
here: features behind patch merging, and its heads."""

import re
import runpy

import commands
import pytest
import torch
import torch.nn.functional as F
from tiny import OUTPUTS, SWIN

from mmvmt.apis.weights import load_weights
from mmvmt.registry import MODELS

TOOL = commands.ROOT / 'tools/model_converters/mtlora_to_mmvmt.py'
main = runpy.run_path(str(TOOL))['main']
TASKS = dict(semseg='semseg', normals='normals', sal='saliency')
DIMS = [SWIN['embed_dims'] * 2**stage for stage in range(4)]
WINDOW, RANK, TASK_RANK, SCALE = SWIN['window_size'], 3, 2, 4.0
WIDTHS = (18, 36, 72, 144)
IMAGES = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(1)).double()


def official(plus=False, old=False):
    """Random weights under the names of the public code; ``old``: without updates outside of last blocks."""
    shapes = {
        'patch_embed.proj.weight': (DIMS[0], 3, 4, 4),
        'patch_embed.proj.bias': (DIMS[0],),
        'patch_embed.norm.weight': (DIMS[0],),
        'patch_embed.norm.bias': (DIMS[0],),
    }

    def layer(name, width, out, bias=True, updates=True, tasks=False):
        inside = f'{name}.linear' if updates else name
        shapes[f'{inside}.weight'] = (out, width)
        if bias:
            shapes[f'{inside}.bias'] = (out,)
        if updates:
            shapes.update({f'{name}.lora_shared_A': (RANK, width), f'{name}.lora_shared_B': (out, RANK)})
        for task in TASKS if tasks else ():
            shapes[f'{name}.lora_tasks_A.{task}'] = (TASK_RANK, width)
            shapes[f'{name}.lora_tasks_B.{task}'] = (out, TASK_RANK)

    for stage, (d, depth) in enumerate(zip(DIMS, SWIN['depths'])):
        for block in range(depth):
            at, last = f'layers.{stage}.blocks.{block}', block == depth - 1
            options = dict(updates=last or not old, tasks=last)
            shapes |= {f'{at}.norm{n}.{end}': (d,) for n in (1, 2) for end in ('weight', 'bias')}
            shapes[f'{at}.attn.relative_position_bias_table'] = ((2 * WINDOW - 1) ** 2, SWIN['num_heads'][stage])
            layer(f'{at}.attn.qkv', d, 3 * d, updates=last or not old)
            layer(f'{at}.attn.proj', d, d, **options)
            layer(f'{at}.mlp.fc1', d, 2 * d, **options)
            layer(f'{at}.mlp.fc2', 2 * d, d, **options)
        if stage < 3:
            shapes |= {f'layers.{stage}.downsample.norm.{end}': (4 * d,) for end in ('weight', 'bias')}
            layer(f'layers.{stage}.downsample.reduction', 4 * d, 2 * d, bias=False, updates=plus)
    shapes = {f'backbone.{name}': shape for name, shape in shapes.items()}
    wide = 4 * sum(WIDTHS)
    for task, ours in TASKS.items():
        classes = dict(semseg=5, normals=3, saliency=1)[ours]
        at = f'decoders.decoders.{task}.last_layer'
        for level, (width, channels) in enumerate(zip((*DIMS[1:], DIMS[3]), WIDTHS)):
            shapes[f'downsampler.{task}.downsample_{level}.weight'] = (channels, width, 1, 1)
        shapes |= {f'{at}.0.weight': (wide, sum(WIDTHS), 1, 1), f'{at}.0.bias': (wide,)}
        shapes |= {f'{at}.1.{end}': (wide,) for end in ('weight', 'bias', 'running_mean', 'running_var')}
        shapes |= {f'{at}.3.weight': (classes, wide, 1, 1), f'{at}.3.bias': (classes,)}
    generator = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(shape, generator=generator).double() * 0.2 for name, shape in shapes.items()}
    for name in weights:
        if re.search(r'norm\d?\.weight|\.1\.(weight|running_var)$', name):
            weights[name] = 1 + weights[name].abs()
    places = torch.stack(torch.meshgrid(*2 * (torch.arange(WINDOW),), indexing='ij')).flatten(1)
    down, right = places[:, :, None] - places[:, None] + WINDOW - 1
    index = down * (2 * WINDOW - 1) + right
    for task in TASKS:
        weights[f'decoders.decoders.{task}.last_layer.1.num_batches_tracked'] = torch.tensor(7)
    for name in [name for name in weights if name.endswith('relative_position_bias_table')]:
        weights[name.replace('bias_table', 'index')] = index
    weights['backbone.layers.1.blocks.1.attn_mask'] = torch.zeros(16, 16, 16)
    return weights


class Reference:
    """The network of the formulas, over weights under the names of the public code."""

    def __init__(self, weights):
        self.weights = {name.removeprefix('backbone.'): value for name, value in weights.items()}

    def norm(self, name, x):
        return F.layer_norm(x, x.shape[-1:], self.weights[f'{name}.weight'], self.weights[f'{name}.bias'])

    def frozen(self, name, x):
        name = f'{name}.linear' if f'{name}.linear.weight' in self.weights else name
        return F.linear(x, self.weights[f'{name}.weight'], self.weights.get(f'{name}.bias'))

    def update(self, name, x, task=None):
        a, b = (f'{name}.lora_tasks_{side}.{task}' if task else f'{name}.lora_shared_{side}' for side in 'AB')
        return SCALE * x @ self.weights[a].T @ self.weights[b].T if a in self.weights else 0

    def shared(self, name, x):
        return self.frozen(name, x) + self.update(name, x)

    def heads_of(self, name, x, side, heads, shift):
        """What enters the projection of the attention, token by token."""
        d = x.shape[-1]
        windows = x.unflatten(1, (side, side)).roll((-shift, -shift), (1, 2))
        count = side // WINDOW
        windows = windows.unflatten(2, (count, WINDOW)).unflatten(1, (count, WINDOW)).transpose(2, 3).flatten(3, 4)
        q, k, v = self.shared(f'{name}.qkv', windows.reshape(-1, WINDOW**2, d)).unflatten(2, (3, heads, -1)).unbind(2)
        scores = torch.einsum('nihc,njhc->nhij', q, k) * (d // heads) ** -0.5
        bias = self.weights[f'{name}.relative_position_bias_table'][self.weights[f'{name}.relative_position_index']]
        scores = (scores + bias.permute(2, 0, 1)).unflatten(0, (-1, count, count))
        if shift:
            # Tokens that the roll brought together from opposite edges do not see each other.
            edge = torch.arange(side).ge(side - shift).unflatten(0, (count, WINDOW))
            rows = edge[:, None, :, None].expand(count, count, WINDOW, WINDOW).flatten(2)
            columns = edge[None, :, None, :].expand(count, count, WINDOW, WINDOW).flatten(2)
            apart = (rows[..., :, None] != rows[..., None, :]) | (columns[..., :, None] != columns[..., None, :])
            scores = scores.masked_fill(apart[None, :, :, None], -torch.inf)
        scores = scores.flatten(0, 2).softmax(-1)
        out = torch.einsum('nhij,njhc->nihc', scores, v).flatten(2).reshape(len(x), count, count, WINDOW, WINDOW, d)
        return out.transpose(2, 3).reshape(len(x), side, side, d).roll((shift, shift), (1, 2)).flatten(1, 2)

    def merged(self, stage, x, side):
        x = x.unflatten(1, (side, side))
        fours = [x[:, row::2, column::2] for row, column in ((0, 0), (1, 0), (0, 1), (1, 1))]
        name = f'layers.{stage}.downsample'
        return self.shared(f'{name}.reduction', self.norm(f'{name}.norm', torch.cat(fours, -1).flatten(1, 2)))

    def features(self, task):
        embed = self.weights['patch_embed.proj.weight'], self.weights['patch_embed.proj.bias']
        x = F.conv2d(IMAGES, *embed, stride=4)
        side, maps = x.shape[-1], []
        x = self.norm('patch_embed.norm', x.flatten(2).transpose(1, 2))
        for stage, depth in enumerate(SWIN['depths']):
            for block in range(depth):
                at = f'layers.{stage}.blocks.{block}'
                proj, fc1, fc2 = f'{at}.attn.proj', f'{at}.mlp.fc1', f'{at}.mlp.fc2'
                h, heads = x, SWIN['num_heads'][stage]
                o = self.heads_of(f'{at}.attn', self.norm(f'{at}.norm1', h), side, heads, block % 2 * (WINDOW // 2))
                u = h + self.shared(proj, o)
                n = self.norm(f'{at}.norm2', u)
                g = F.gelu(self.shared(fc1, n))
                x = u + self.shared(fc2, g)
            own = h + self.frozen(proj, o) + self.update(proj, o, task)
            hidden = F.gelu(self.frozen(fc1, n) + self.update(fc1, self.norm(f'{at}.norm2', own), task))
            y = own + self.frozen(fc2, g) + self.update(fc2, hidden, task)
            if stage < 3:
                x, y, side = self.merged(stage, x, side), self.merged(stage, y, side), side // 2
            maps.append(y.transpose(1, 2).unflatten(2, (side, side)))
        return maps

    def logits(self, task):
        maps = [
            F.conv2d(x, self.weights[f'downsampler.{task}.downsample_{level}.weight'])
            for level, x in enumerate(self.features(task))
        ]
        x = torch.cat([F.interpolate(x, maps[0].shape[2:], mode='bilinear') for x in maps], 1)
        at = f'decoders.decoders.{task}.last_layer'
        x = F.conv2d(x, self.weights[f'{at}.0.weight'], self.weights[f'{at}.0.bias'])
        x = F.batch_norm(
            x, *(self.weights[f'{at}.1.{end}'] for end in ('running_mean', 'running_var', 'weight', 'bias'))
        )
        return F.conv2d(F.relu(x), self.weights[f'{at}.3.weight'], self.weights[f'{at}.3.bias'])


@pytest.mark.parametrize(
    'method, options', [('MTLoRA', {}), ('MTLoRAPlus', dict(plus=True)), ('MTLoRA', dict(old=True))]
)
def test_converted_weights_give_the_outputs_of_the_formulas(method, options, tmp_path, capsys):
    weights = official(**options)
    torch.save(dict(model=weights, epoch=3), tmp_path / 'source.pth')
    assert main([str(tmp_path / 'source.pth'), str(tmp_path / 'target.pth')]) == 0
    said = capsys.readouterr().out
    assert "tasks semseg, normals, saliency; they fit backbone=dict(type='mmvmt.AdaptedSwin'" in said
    assert f"type='mmvmt.{method}', rank=3, task_rank=2" in said
    assert ('4 layers had no shared update' in said) == bool(options.get('old'))
    plugin = dict(cfg=dict(type=f'mmvmt.{method}', rank=RANK, task_rank=TASK_RANK))
    model = MODELS.build(
        dict(
            type='mmvmt.MultiTaskEncoderDecoder',
            data_preprocessor=dict(type='mmvmt.MultiTaskDataPreProcessor'),
            backbone=dict(type='mmvmt.AdaptedSwin', features_after_merging=True, plugins=[plugin], **SWIN),
            heads={task: dict(type='mmvmt.HighResolutionHead', output=OUTPUTS[task]) for task in TASKS.values()},
        )
    )
    load_weights(model, str(tmp_path / 'target.pth'))
    # Again, not rounded.
    model = model.double().eval()
    model.load_state_dict(torch.load(tmp_path / 'target.pth', weights_only=True)['state_dict'])
    reference = Reference(weights)
    with torch.no_grad():
        features = model.backbone(IMAGES)
        for task, ours in TASKS.items():
            for got, expected in zip(features[ours], reference.features(task), strict=True):
                torch.testing.assert_close(got, expected, atol=1e-9, rtol=1e-9)
            logits = model.heads[ours](features[ours])
            torch.testing.assert_close(logits, reference.logits(task), atol=1e-6, rtol=1e-6)
    assert not torch.allclose(features['semseg'][0], features['normals'][0])


@pytest.mark.parametrize(
    'name, message',
    [
        ('backbone.layers.0.blocks.0.attn.qkv.lora_shared_scale', 'only constant scales'),
        ('backbone.layers.0.blocks.0.mlp.fc1.lora_norm.weight', 'only constant scales'),
        ('decoders.decoders.sal.linear_fuse.weight', 'only Swin Transformers with the HRNet heads are converted'),
    ],
)
def test_other_weights_are_refused(name, message, tmp_path, capsys):
    torch.save(dict(model=official() | {name: torch.ones(1)}), tmp_path / 'source.pth')
    assert main([str(tmp_path / 'source.pth'), str(tmp_path / 'target.pth')]) == 2
    said = capsys.readouterr().err
    assert repr(name) in said
    assert message in said
    assert not (tmp_path / 'target.pth').exists()


def test_an_encoder_alone_is_refused(tmp_path, capsys):
    weights = {name: value for name, value in official().items() if '.lora_' not in name}
    torch.save(dict(model=weights), tmp_path / 'source.pth')
    assert main([str(tmp_path / 'source.pth'), str(tmp_path / 'target.pth')]) == 2
    assert 'no checkpoint of MTLoRA: no task has updates' in capsys.readouterr().err


FC1 = 'backbone.layers.0.blocks.0.mlp.fc1.'


@pytest.mark.parametrize(
    'dropped, added, message',
    [
        (FC1 + 'lora_shared_B', {}, 'updates.stage0_block0_fc1 has no B'),
        (FC1 + r'lora_tasks_[AB]\.sal', {}, 'tails.saliency.stage0_block0_fc1 has no A and B'),
        (FC1 + '(linear.weight|lora_shared_.)', {}, "'layers.0.blocks.0.mlp.fc1.weight' is missing"),
        ('', {FC1 + 'lora_shared_B': torch.ones(32, 5)}, 'A has rank 3, but B 5'),
        (
            '',
            {FC1 + 'lora_shared_A': torch.ones(5, 16), FC1 + 'lora_shared_B': torch.ones(32, 5)},
            'updates must have one rank, but updates have [3, 5]',
        ),
    ],
)
def test_checkpoints_that_are_not_whole_or_of_several_ranks_are_refused(dropped, added, message, tmp_path, capsys):
    weights = {name: value for name, value in official().items() if not re.fullmatch(dropped, name)} | added
    torch.save(dict(model=weights), tmp_path / 'source.pth')
    assert main([str(tmp_path / 'source.pth'), str(tmp_path / 'target.pth')]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / 'target.pth').exists()
