"""Generated adapters against a reference that is written from the equations: torch.kron, loops over tokens."""

import math

import pytest
import torch
from mmengine.runner.checkpoint import load_state_dict
from tiny import FOUR_TASKS, SWIN, perturb, tiny_encoder, tiny_swin

from mmvmt.adapters import HyperFormer, Polyhistor, PolyhistorLite, Site
from mmvmt.adapters.hypernetwork import Hypernetwork

IMAGES = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
SITES = [
    Site(0, 0, 'ffn', 4, 4),
    Site(0, 0, 'attn', 4, 4),
    Site(1, 0, 'ffn', 8, 8),
    Site(2, 0, 'ffn', 12, 12),
]
TASKS = ('semseg', 'normals')
SIZES = dict(embedding=3, hidden=16, code=4)
METHODS = {
    HyperFormer: dict(reduction=2, **SIZES),
    Polyhistor: dict(rank=2, **SIZES),
    PolyhistorLite: dict(rank=2, **SIZES),
}
STRUCTURES = [
    (HyperFormer, {}),
    (HyperFormer, dict(embed_blocks=True)),
    (Polyhistor, {}),
    (Polyhistor, dict(embed_blocks=True)),
    (Polyhistor, dict(growing_rank=True, rank=1)),
    (Polyhistor, dict(position='serial')),
    (HyperFormer, dict(position='parallel', input='normed')),
    (PolyhistorLite, {}),
    (PolyhistorLite, dict(shared_kernels=False)),
    (PolyhistorLite, dict(product='template_kernel')),
    (PolyhistorLite, dict(shared_kernels=False, product='template_kernel', position='serial')),
]
FORMER = {
    HyperFormer: dict(embed_blocks=True, inside_drop_path=False),
    Polyhistor: dict(embed_blocks=True, inside_drop_path=False, position='serial'),
    PolyhistorLite: dict(shared_kernels=False, inside_drop_path=False, position='serial'),
}


def plugins_of(method, **options):
    return [dict(cfg=dict(type=f'mmvmt.{method.__name__}', **(METHODS[method] | options)))]


def linear(x, weight, bias):
    return [sum(w * v for w, v in zip(row, x, strict=True)) + b for row, b in zip(weight, bias, strict=True)]


def layer_norm(x, scale, shift):
    mean = sum(x) / len(x)
    std = math.sqrt(sum((v - mean) ** 2 for v in x) / len(x) + 1e-5)
    return [g * (v - mean) / std + b for v, g, b in zip(x, scale, shift, strict=True)]


def run(layer, x):
    return linear(x, layer.weight.tolist(), layer.bias.tolist())


def reference_template(method, hypernetwork, seen, width, bottleneck, rank):
    """The six weights that a hypernetwork makes of the embeddings that it sees; rank None: whole matrices."""
    hidden = run(hypernetwork.mlp[0], seen)
    code = run(hypernetwork.mlp[2], [max(0.0, v) for v in hidden])
    if method.embedding_norm:
        norm = hypernetwork.mlp[3]
        code = layer_norm(code, norm.weight.tolist(), norm.bias.tolist())

    def matrix(generator, rows, columns):
        entries = torch.tensor(run(generator, code), dtype=torch.double)
        if rank is None:
            return entries.view(rows, columns)
        assert len(entries) == (rows + columns) * rank
        left, right = entries[: rows * rank].view(rows, rank), entries[rows * rank :].view(rank, columns)
        return sum(torch.outer(left[:, k], right[k]) for k in range(rank))

    generators = hypernetwork.generators
    vectors = ('down_bias', 'up_bias') + (('gamma', 'beta') if method.norm == 'generated' else ())
    return dict(
        down=matrix(generators.down, bottleneck, width),
        up=matrix(generators.up, width, bottleneck),
        **{name: torch.tensor(run(getattr(generators, name), code), dtype=torch.double) for name in vectors},
    )


def reference_weights(method, site, task, options):
    """The weights of a block's adapter."""
    width, v, rank = site.in_channels, method.task_embeddings[task].tolist(), options.get('rank')
    if not isinstance(method, PolyhistorLite):
        if options.get('embed_blocks'):
            (u,) = method.block_embeddings[site.key].tolist()
            v = v + u
        if options.get('growing_rank'):
            rank = rank * width // 4
        return reference_template(method, method.hypernetworks[site.key], v, width, width // 2, rank)
    k = width // 4
    blocks = method.block_embeddings[site.key].tolist()
    templates = [reference_template(method, method.hypernetwork, v + u, 4, 2, rank) for u in blocks]
    assert len(blocks) == k
    if k == 1:
        return templates[0]
    scaling = method.scalings[site.key]
    shared = dict(down='matrix', up='matrix', down_bias='bias', up_bias='bias', gamma='norm', beta='norm')
    weights = {}
    for name in templates[0]:
        kernel = shared[name] if options.get('shared_kernels', True) else name
        total = 0
        for i in range(k):
            if name in ('down', 'up'):
                factors = scaling.kernels[kernel][i], templates[i][name]
            else:
                factors = scaling.coefficients[kernel][i], templates[i][name].unsqueeze(1)
            total = total + torch.kron(*(factors if options.get('product') != 'template_kernel' else factors[::-1]))
        weights[name] = total if name in ('down', 'up') else total.squeeze(1)
    return weights


def reference_output(method, site, task, x, y, options):
    """y + gamma * LN(a) + beta, or y + a, of one token in plain Python; a is made of x."""
    weights = {name: tensor.tolist() for name, tensor in reference_weights(method, site, task, options).items()}
    z = [0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in linear(x, weights['down'], weights['down_bias'])]
    a = linear(z, weights['up'], weights['up_bias'])
    if method.norm == 'generated':
        a = layer_norm(a, weights['gamma'], weights['beta'])
    return [v + u for v, u in zip(y, a, strict=True)]


@pytest.mark.parametrize('method, structure', STRUCTURES)
@pytest.mark.parametrize('norm', ['generated', 'none'])
@pytest.mark.parametrize('embedding_norm', [False, True])
@torch.no_grad()
def test_equals_the_equations(method, structure, norm, embedding_norm):
    torch.manual_seed(0)
    options = METHODS[method] | structure
    adapter = method(SITES, TASKS, norm=norm, embedding_norm=embedding_norm, **options)
    perturb(adapter, std=0.4)
    adapter.double()
    parallel = structure.get('position', 'serial' if method is HyperFormer else 'parallel') == 'parallel'
    generator = torch.Generator().manual_seed(3)
    for task in TASKS:
        generated = adapter.generate(task)
        assert list(generated) == [site.key for site in SITES]
        for site in SITES:
            inputs, outputs = torch.randn(2, 1, 2, site.in_channels, generator=generator).double().unbind()
            adapted, tap = adapter.adapt(site, inputs, outputs, task, generated)
            assert tap is None
            for token in range(2):
                y = outputs[0, token].tolist()
                x = inputs[0, token].tolist() if parallel else y
                expected = reference_output(adapter, site, task, x, y, options)
                assert adapted[0, token].tolist() == pytest.approx(expected, rel=1e-8, abs=1e-8)


@pytest.mark.parametrize('method, structure', STRUCTURES)
def test_the_authors_start_is_near_the_branch_and_learns_everywhere(method, structure):
    torch.manual_seed(0)
    adapter = method(SITES, TASKS, start='authors', **(METHODS[method] | structure | dict(hidden=64, code=64)))
    perturb(adapter)
    adapter.reset_parameters()
    drawn = {'weight': [], 'kernel': []}
    for name, parameter in adapter.named_parameters():
        if 'scalings.' in name:
            drawn['kernel'].append(parameter.detach().flatten())
        elif name.endswith('.bias'):
            assert not parameter.any(), name
        elif 'embeddings.' not in name:
            drawn['weight'].append(parameter.detach().flatten())
    # Normal with standard deviation 0.01 in all linear layers, 1 in kernels and coefficients.
    for values, deviation in ((drawn['weight'], 0.01), (drawn['kernel'], 1.0)):
        if values:
            values = torch.cat(values)
            assert values.std().item() == pytest.approx(deviation, rel=4 / math.sqrt(2 * len(values)))
    adapter.double()
    loss = 0
    for task in TASKS:
        generated = adapter.generate(task)
        for site in SITES:
            outputs = torch.randn(3, 5, site.out_channels).double()
            adapted, _ = adapter.adapt(site, outputs, outputs, task, generated)
            assert not torch.equal(adapted, outputs)
            torch.testing.assert_close(adapted, outputs, atol=0.05, rtol=0)
            loss = loss + (adapted - 1).square().sum()
    loss.backward()
    assert [n for n, p in adapter.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize('kind', ['mmvmt.AdaptedSwin', 'mmvmt.AdaptedBackbone'])
@pytest.mark.parametrize('input', ['stream', 'normed'])
@torch.no_grad()
def test_in_parallel_it_reads_either_side_of_the_norm(kind, input, monkeypatch):
    (plugin,) = plugins_of(Polyhistor, position='parallel', input=input)
    encoder = SWIN if kind == 'mmvmt.AdaptedSwin' else dict(encoder=dict(type='mmseg.SwinTransformer', **SWIN))
    swin = tiny_encoder(dict(type=kind, **encoder), ('semseg',), [plugin | dict(position=['attn', 'ffn'])])
    (adapter,) = swin.adapters
    read, around = {}, {}
    adapt = adapter.adapt
    monkeypatch.setattr(adapter, 'adapt', lambda site, x, *args: (read.update({site: x}), adapt(site, x, *args))[1])
    for site in adapter.sites:
        swin.norm_of(site).register_forward_hook(
            lambda _, args, y, site=site: around.update({site: dict(stream=args[0], normed=y)})
        )
    swin(IMAGES)
    assert len(read) == 10
    assert all(torch.equal(read[site], around[site][input]) for site in adapter.sites)


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('inside', [True, False])
def test_drop_path_takes_the_adapter_along_by_default(method, inside):
    plugin = dict(stages=(False, False, False, True)) | plugins_of(method, **({} if inside else FORMER[method]))[0]
    swin = tiny_swin(tasks=TASKS, plugins=[plugin], drop_path_rate=0.999).train()
    images = IMAGES.repeat(4, 1, 1, 1)

    def last_stage():
        torch.manual_seed(0)
        return swin(images)['semseg'][3]

    before = last_stage()
    with torch.no_grad():
        swin.adapters[0].task_embeddings['semseg'].add_(1)
    # Inside of drop path, which drops nearly every branch here, another adapter changes nothing.
    assert torch.equal(before, last_stage()) == inside


@pytest.mark.parametrize('method', METHODS)
def test_weights_of_the_former_structure_are_refused_with_the_options_that_have_it(method):
    former = tiny_swin(tasks=TASKS, plugins=plugins_of(method, **FORMER[method]))
    today = tiny_swin(tasks=TASKS, plugins=plugins_of(method))
    assert method.former_defaults == FORMER[method]
    for theirs, ours, options in ((former, today, FORMER[method]), (today, former, None)):
        before = {name: value.clone() for name, value in ours.adapters.state_dict().items()}
        wanted = ', '.join(f'{key}={value!r}' for key, value in (options or ours_now(today)).items())
        # In part, too, as mmengine loads checkpoints.
        with pytest.raises(ValueError, match=rf"cfg=dict\(type='{method.__name__}', {wanted}"):
            load_state_dict(ours, theirs.state_dict(), strict=False)
        assert all(torch.equal(value, ours.adapters.state_dict()[name]) for name, value in before.items())
    again = tiny_swin(tasks=TASKS, plugins=plugins_of(method, **FORMER[method]))
    again.load_state_dict(former.state_dict())
    again.load_state_dict(tiny_swin(tasks=TASKS, plugins=None).state_dict(), strict=False)


def ours_now(swin):
    """The option that tells the structure of a model as it is built by default."""
    adapter = swin.adapters[0]
    key = next(iter(adapter.former_defaults))
    return {key: getattr(adapter, key)}


@pytest.mark.parametrize('method, structure', STRUCTURES)
@pytest.mark.parametrize('norm', ['generated', 'none'])
def test_starts_as_the_identity_and_is_not_stuck_there(method, structure, norm):
    torch.manual_seed(0)
    adapter = method(SITES, TASKS, norm=norm, **(METHODS[method] | structure))
    perturb(adapter)
    adapter.reset_parameters()
    optimizer = torch.optim.SGD(adapter.parameters(), lr=0.01)
    missing = []
    for step in range(2):
        optimizer.zero_grad()
        loss = 0
        for task in TASKS:
            generated = adapter.generate(task)
            for site in SITES:
                outputs = torch.randn(3, 5, site.out_channels)
                adapted, _ = adapter.adapt(site, outputs, outputs, task, generated)
                assert torch.equal(adapted, outputs) == (step == 0)
                loss = loss + (adapted - 1).square().sum()
        loss.backward()
        missing.append([n for n, p in adapter.named_parameters() if p.grad is None or not p.grad.any()])
        optimizer.step()
    learning = ('gamma', 'beta') if norm == 'generated' else ('up', 'up_bias')
    assert not [name for name in missing[0] if name.rsplit('.', 2)[-2] in learning and 'generators' in name]
    assert missing[1] == []


@pytest.mark.parametrize(
    'method, structure', [case for case in STRUCTURES if 'rank' not in case[1] and 'position' not in case[1]]
)
def test_matrices_start_at_fan_in_scale(method, structure):
    torch.manual_seed(0)
    sites = [Site(stage, 0, 'ffn', width, width) for stage, width in enumerate((64, 128, 256))]
    variances = {site.key: [] for site in sites}
    options = dict(rank=12) if 'rank' in METHODS[method] else {}
    # Kernels and factors have few entries that are common to all of W: the variance shows over many draws only.
    for _ in range(20):
        adapter = method(sites, ['semseg'], reduction=2, **(options | structure))
        for key, weights in adapter.generate('semseg').items():
            variances[key].append([w.var().item() * w.shape[1] for w in (weights.down, weights.up)])
    for key, values in variances.items():
        mean = torch.tensor(values).mean(0)
        assert ((mean > 0.8) & (mean < 1.4)).all(), (key, mean)


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('norm', ['generated', 'none'])
@pytest.mark.parametrize('tasks', [('semseg',), None, (*FOUR_TASKS, 'depth', 'edge')])
def test_every_parameter_gets_a_gradient(method, norm, tasks):
    swin = tiny_swin(tasks=tasks, plugins=plugins_of(method, norm=norm, embedding_norm=True))
    features = swin(IMAGES)
    maps = features if tasks is None else [m for task in tasks for m in features[task]]
    sum((m - 1).square().sum() for m in maps).backward()
    assert [n for n, p in swin.adapters.named_parameters() if p.grad is None or not p.grad.any()] == []


def count_generations(swin):
    """Calls of every hypernetwork of an encoder, counted from here on."""
    calls = []
    hypernetworks = [module for module in swin.modules() if isinstance(module, Hypernetwork)]
    for hypernetwork in hypernetworks:
        hypernetwork.mlp.register_forward_hook(lambda *_: calls.append(1))
    return calls, len(hypernetworks)


@pytest.mark.parametrize('method, hypernetworks', [(HyperFormer, 5), (Polyhistor, 5), (PolyhistorLite, 1)])
@pytest.mark.parametrize('order', ['sequential', 'stacked'])
def test_a_step_generates_once_per_task_with_checkpointing_too(method, hypernetworks, order):
    swin = tiny_swin(tasks=TASKS, plugins=plugins_of(method), with_cp=True, task_order=order).train()
    calls, number = count_generations(swin)
    assert number == hypernetworks
    sum(m.square().sum() for maps in swin(IMAGES).values() for m in maps).backward()
    assert len(calls) == number * len(TASKS)


@pytest.mark.parametrize('method', METHODS)
@torch.no_grad()
def test_evaluation_generates_once_until_something_changes(method):
    swin = tiny_swin(tasks=TASKS, plugins=plugins_of(method))
    calls, number = count_generations(swin)
    optimizer = torch.optim.SGD(swin.adapters.parameters(), lr=0.1)
    for parameter in swin.adapters.parameters():
        parameter.grad = torch.ones_like(parameter)
    state = {name: tensor + 0.1 for name, tensor in swin.state_dict().items() if tensor.is_floating_point()}
    features = []
    for change in (
        lambda: None,
        optimizer.step,
        lambda: swin.load_state_dict(state, strict=False),
        lambda: swin.train().eval(),
    ):
        change()
        calls.clear()
        features.append(swin(IMAGES)['normals'])
        assert len(calls) == number * len(TASKS)
        again = swin(IMAGES)['normals']
        assert len(calls) == number * len(TASKS)
        assert all(torch.equal(a, b) for a, b in zip(features[-1], again, strict=True))
    for before, after in ((0, 1), (1, 2)):
        assert not any(torch.equal(a, b) for a, b in zip(features[before], features[after], strict=True))


@pytest.mark.parametrize('method', METHODS)
@torch.no_grad()
def test_a_task_knows_nothing_of_the_others_embeddings(method):
    swin = tiny_swin(tasks=TASKS, plugins=plugins_of(method))
    before = swin(IMAGES)
    swin.adapters[0].task_embeddings['normals'].add_(1)
    after = swin(IMAGES)
    assert all(torch.equal(a, b) for a, b in zip(before['semseg'], after['semseg'], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(before['normals'], after['normals'], strict=True))


@pytest.mark.parametrize('method', METHODS)
@torch.no_grad()
def test_embeddings_are_found_by_the_tasks_names(method):
    many = tiny_swin(tasks=FOUR_TASKS, plugins=plugins_of(method))
    some = tiny_swin(tasks=('normals', 'semseg'), plugins=plugins_of(method))
    assert some.load_state_dict(many.state_dict(), strict=False).missing_keys == []
    expected = many(IMAGES)
    for task, maps in some(IMAGES).items():
        assert all(torch.equal(a, b) for a, b in zip(maps, expected[task], strict=True))


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_autocast_generates_in_full_precision_and_keeps_the_streams_type(method, dtype):
    adapter = method(SITES, TASKS, **METHODS[method])
    perturb(adapter)
    outputs = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(2))
    generated = adapter.generate('normals')
    expected, _ = adapter.adapt(SITES[2], outputs, outputs, 'normals', generated)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        inside = adapter.generate('normals')
        got, _ = adapter.adapt(SITES[2], outputs, outputs.to(dtype), 'normals', inside)
    for key, weights in generated.items():
        assert all(torch.equal(a, b) for a, b in zip(weights, inside[key], strict=True))
    assert got.dtype == dtype
    torch.testing.assert_close(got.float(), expected, atol=0.1, rtol=0.05)


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('former', [False, True])
def test_embeddings_biases_and_coefficients_do_not_decay(method, former):
    structure = FORMER[method] if former else {}
    adapter = method(SITES, TASKS, embedding_norm=True, **(METHODS[method] | structure))
    kept = {id(p) for p in adapter.no_decay_parameters()}
    names = ('embeddings.', 'bias', 'coefficients.', 'mlp.3.')
    found = set()
    for name, parameter in adapter.named_parameters():
        parts = [part for part in names if part in name and not name.endswith('_bias.weight')]
        found.update(parts)
        assert (id(parameter) in kept) == bool(parts), name
    assert found == set(names) - (set() if method is PolyhistorLite else {'coefficients.'})


@pytest.mark.parametrize('method', METHODS)
def test_unfreezing_norms_adds_exactly_the_layer_norms(method):
    swin = tiny_swin(plugins=plugins_of(method, unfreeze='norms'))
    own = {id(p) for p in swin.adapter_parameters()}
    trained = {id(p) for p in swin.parameters() if p.requires_grad} - own
    norms = {id(p) for m in swin.modules() if isinstance(m, torch.nn.LayerNorm) for p in m.parameters()} - own
    assert norms
    assert trained == norms


@pytest.mark.parametrize('method', METHODS)
def test_the_ffn_is_filled_unasked_and_the_attention_on_request(method):
    swin = tiny_swin(plugins=plugins_of(method))
    assert {site.slot for site in swin.adapters[0].sites} == {'ffn'}
    both = tiny_swin(plugins=[plugin | dict(position=['attn', 'ffn']) for plugin in plugins_of(method)])
    assert len(both.adapters[0].sites) == len(both.adapters[0].generate('semseg')) == 10


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('task', ['depth', None])
def test_a_task_it_was_not_built_for_is_refused(method, task):
    adapter = method(SITES, FOUR_TASKS, **METHODS[method])
    message = f'{method.__name__} has no embedding of task {task!r}; it was built for semseg, human_parts, saliency'
    with pytest.raises(ValueError, match=message):
        adapter.generate(task)


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize(
    'key, value, message',
    [
        ('embedding', -1, 'embedding must be a positive integer, got -1'),
        ('hidden', 0, 'hidden must be a positive integer, got 0'),
        ('code', 2.5, r'code must be a positive integer, got 2\.5'),
        ('code', True, 'code must be a positive integer, got True'),
        ('norm', 'batch', "norm must be 'generated' or 'none', got 'batch'"),
        ('unfreeze', 'all', "unfreeze must be 'none' or 'norms', got 'all'"),
        ('embedding_norm', 'yes', "embedding_norm must be True or False, got 'yes'"),
        ('inside_drop_path', 1, 'inside_drop_path must be True or False, got 1'),
        ('position', 'ffn', "position must be 'serial' or 'parallel', got 'ffn'"),
        ('input', 'mlp', "input must be 'stream' or 'normed', got 'mlp'"),
        ('start', 'one', "start must be 'zero' or 'authors', got 'one'"),
        ('activation', 'tanh', "unknown activation 'tanh'; choose one of gelu"),
        ('reduction', 0, 'reduction must be between 1 and the block width 4, got 0'),
        ('reduction', 5, 'reduction must be between 1 and the block width 4, got 5'),
    ],
)
def test_wrong_options_are_quoted(method, key, value, message):
    with pytest.raises(ValueError, match=message):
        method(SITES, TASKS, **(METHODS[method] | {key: value}))


@pytest.mark.parametrize('method', METHODS)
def test_behind_the_branch_nothing_in_front_of_it_can_be_read(method):
    with pytest.raises(ValueError, match="input='normed' is for adapters beside the branch, position='parallel'"):
        method(SITES, TASKS, position='serial', input='normed', **METHODS[method])


@pytest.mark.parametrize('method', METHODS)
def test_without_a_site_the_method_says_so(method):
    with pytest.raises(ValueError, match=f'{method.__name__} got no site to fill'):
        method([], TASKS)
