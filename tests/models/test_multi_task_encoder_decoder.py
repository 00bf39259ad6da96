import pytest
import torch
import torch.nn.functional as F
from mmengine.runner import load_checkpoint
from tiny import FOUR_TASKS, VMT, batch, losses_of, model_cfg, tiny_model

from mmvmt.registry import MODELS
from mmvmt.structures import TASKS

SIX_TASKS = (*FOUR_TASKS, 'edge', 'depth')


def test_modes():
    model = tiny_model(SIX_TASKS)
    data = model.data_preprocessor(batch(SIX_TASKS), True)
    losses = model(**data, mode='loss')
    assert list(losses) == [f'loss_{task}' for task in SIX_TASKS]
    assert all(torch.isfinite(loss) and loss > 0 for loss in losses.values())
    logits = model(data['inputs'], mode='tensor')
    assert {task: tuple(x.shape) for task, x in logits.items()} == {
        'semseg': (2, 5, 16, 16),
        'human_parts': (2, 7, 16, 16),
        'saliency': (2, 1, 16, 16),
        'normals': (2, 3, 16, 16),
        'edge': (2, 1, 16, 16),
        'depth': (2, 1, 16, 16),
    }
    samples = model(data['inputs'], mode='predict')
    assert set(samples[0].pred.keys()) == set(SIX_TASKS)
    with pytest.raises(ValueError, match="mode must be 'loss', 'predict' or 'tensor', got 'train'"):
        model(data['inputs'], mode='train')


def test_one_encoder_call_for_all_tasks():
    model = tiny_model(SIX_TASKS)
    calls = []
    model.backbone.register_forward_hook(lambda *_: calls.append(1))
    model.test_step(batch(SIX_TASKS))
    assert calls == [1]


def test_predictions_have_the_size_of_the_original_image():
    model = tiny_model(SIX_TASKS)
    data = batch(SIX_TASKS, sizes=((64, 64), (50, 40)))
    data['data_samples'][1].set_metainfo(dict(ori_shape=(100, 80)))
    first, second = model.test_step(data)
    assert first.pred.shape == (64, 64)
    assert second.pred.shape == (100, 80)
    assert second.pred.semseg.dtype == torch.uint8
    torch.testing.assert_close(second.pred.normals.norm(dim=0), torch.ones(100, 80))
    assert second.pred.saliency.min() >= 0
    assert second.pred.saliency.max() <= 1


def test_predictions_at_input_resolution():
    model = tiny_model(test_cfg=dict(resolution='input'))
    data = batch(sizes=((64, 64), (50, 40)))
    data['data_samples'][1].set_metainfo(dict(ori_shape=(100, 80)))
    assert model.test_step(data)[1].pred.shape == (50, 40)


def test_padding_does_not_change_where_a_pixel_is():
    model = tiny_model()
    model.data_preprocessor.size_divisor = 32
    data = batch(sizes=((50, 40),))
    sample = model.test_step(data)[0]
    padded = model.data_preprocessor(batch(sizes=((50, 40),)), False)
    assert padded['inputs'].shape == (1, 3, 64, 64)
    logits = F.interpolate(model(padded['inputs'])['semseg'], size=(64, 64), mode='bilinear', align_corners=False)
    assert torch.equal(sample.pred.semseg[0].long(), logits[0, :, :50, :40].argmax(0))


def test_sliding_windows_average_the_logits_of_overlapping_crops():
    slide = tiny_model(test_cfg=dict(mode='slide', crop_size=(32, 32), stride=(24, 24)))
    data = batch(sizes=((64, 50),))
    inputs = slide.data_preprocessor(data, False)['inputs']
    sums, visits = torch.zeros(1, 5, 64, 50), torch.zeros(64, 50)
    for top in (0, 24, 32):
        for left in (0, 18):
            logits = slide(inputs[:, :, top : top + 32, left : left + 32])['semseg']
            sums[:, :, top : top + 32, left : left + 32] += F.interpolate(
                logits, size=(32, 32), mode='bilinear', align_corners=False
            )
            visits[top : top + 32, left : left + 32] += 1
    expected = (sums / visits).argmax(1)[0]
    assert torch.equal(slide.test_step(batch(sizes=((64, 50),)))[0].pred.semseg[0].long(), expected)


def test_one_window_over_the_whole_image_equals_whole_mode():
    whole = tiny_model()
    slide = tiny_model(test_cfg=dict(mode='slide', crop_size=(96, 96), stride=(48, 48)))
    a, b = whole.test_step(batch())[0], slide.test_step(batch())[0]
    for task in FOUR_TASKS:
        torch.testing.assert_close(a.pred.get(task), b.pred.get(task))


@pytest.mark.parametrize('empty', FOUR_TASKS)
def test_a_task_without_labels_gives_zero_that_reaches_every_parameter(empty):
    model = tiny_model().train()
    data = batch()
    for sample in data['data_samples']:
        sample.gt.get(empty).fill_(TASKS[empty].ignore)
    losses = losses_of(model, data)
    assert losses[f'loss_{empty}'].item() == 0
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize('at_once', [True, False])
def test_head_and_data_set_agree_on_the_number_of_classes(at_once):
    model = tiny_model(gradients_at_once=at_once).train()
    data = batch()
    for sample in data['data_samples']:
        sample.set_metainfo(dict(num_classes=dict(semseg=5, human_parts=7)))
    assert losses_of(model, data)['loss_semseg'] > 0
    data['data_samples'][1].set_metainfo(dict(num_classes=dict(semseg=21, human_parts=7)))
    with pytest.raises(ValueError, match=r'heads.semseg.output.num_classes is 5, but the data set has 21 classes'):
        losses_of(model, data)
    model.eval().set_active_tasks(['human_parts'])
    model.test_step(data)
    model.set_active_tasks()
    with pytest.raises(ValueError, match=r'heads.semseg.output.num_classes is 5, but the data set has 21 classes'):
        model.test_step(data)


def test_a_label_that_is_no_class_of_the_head_names_image_task_and_class():
    data = batch()
    data['data_samples'][1].gt.human_parts[0, 3, 5] = 17
    with pytest.raises(ValueError, match=r"image 'image_1' holds the class 17 of task 'human_parts', but .* is 7"):
        losses_of(tiny_model(), data)
    data['data_samples'][1].set_metainfo(dict(img_path='photos/1.jpg'))
    with pytest.raises(ValueError, match=r"image 'photos/1.jpg' holds the class 17"):
        losses_of(tiny_model(), data)


def test_labels_are_padded_with_ignore_in_training():
    model = tiny_model(SIX_TASKS)
    data = model.data_preprocessor(batch(SIX_TASKS, sizes=((64, 64), (50, 40))), True)
    padded = data['data_samples'][1].gt
    for task in SIX_TASKS:
        assert padded.get(task).shape[1:] == (64, 64)
        assert (padded.get(task)[:, 50:] == TASKS[task].ignore).all()
        assert (padded.get(task)[:, :, 40:] == TASKS[task].ignore).all()


def test_labels_of_another_size_than_their_image_are_refused_in_training():
    model, data = tiny_model(), batch(sizes=((64, 64), (48, 48)))
    data['inputs'][1] = data['inputs'][1][:, :32, :40]
    message = (
        r"'image_1' has 32 x 40 pixels \(height x width\), its label map of task '\w+' 48 x 48: .* MultiTask transforms"
    )
    with pytest.raises(ValueError, match=message):
        model.data_preprocessor(data, True)
    # In evaluation the truth may have the size of the file.
    assert model.data_preprocessor(data, False)['inputs'].shape == (2, 3, 64, 64)


def test_images_are_normalised_in_rgb_order():
    preprocessor = MODELS.build(dict(type='mmvmt.MultiTaskDataPreProcessor', mean=[1, 2, 3], std=[2, 4, 5]))
    image = torch.tensor([30, 20, 10], dtype=torch.uint8).view(3, 1, 1)
    got = preprocessor(dict(inputs=[image]))['inputs']
    assert got.flatten().tolist() == pytest.approx([(10 - 1) / 2, (20 - 2) / 4, (30 - 3) / 5])


def test_a_loss_that_is_not_finite_stops_before_the_step_and_names_iteration_task_and_samples():
    model = tiny_model().train()
    with torch.no_grad():
        model.heads['saliency'].predictor.bias.fill_(float('nan'))
    with pytest.raises(FloatingPointError, match=r'loss of task saliency \(nan\) .* iteration .*image_0.*image_1'):
        losses_of(model, batch())


def test_missing_labels_name_sample_and_task():
    model = tiny_model()
    with pytest.raises(KeyError, match="sample 'image_0' has no labels for task 'normals'"):
        losses_of(model, batch(tasks=FOUR_TASKS[:3]))


@pytest.mark.parametrize(
    'other, message',
    [
        (
            dict(tasks=FOUR_TASKS[:3]),
            'has heads for tasks: human_parts, saliency, semseg; this model has: human_parts, n',
        ),
        (
            dict(plugins=[dict(cfg=dict(type='mmvmt.VMTAdapterLite', reduction=2))]),
            'another method .* lacks .*up_weight',
        ),
        (dict(plugins=None), 'another method than this model: it lacks backbone.adapters'),
        (dict(plugins=[dict(cfg=dict(type='mmvmt.VMTAdapter', reduction=4))]), 'does not fit this model: .* has shape'),
    ],
)
@pytest.mark.parametrize('through', ['torch', 'mmengine'])
def test_a_checkpoint_of_another_method_or_task_set_is_refused(other, message, through, tmp_path):
    weights = tiny_model(**other).state_dict()
    model = tiny_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    path = tmp_path / 'other.pth'
    torch.save(dict(state_dict=weights), path)
    load = {
        'torch': lambda: model.load_state_dict(weights),
        'mmengine': lambda: load_checkpoint(model, str(path), map_location='cpu'),
    }[through]
    with pytest.raises(ValueError, match=message):
        load()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_an_encoder_alone_is_refused_as_a_model():
    weights = {f'backbone.{k}': v for k, v in tiny_model(plugins=None).backbone.state_dict().items()}
    with pytest.raises(ValueError, match=r'heads for tasks: none; .*model.backbone.init_cfg'):
        tiny_model().load_state_dict(weights, strict=False)


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(test_cfg=dict(mode='tile')), "test_cfg.mode must be 'whole' or 'slide', got 'tile'"),
        (dict(test_cfg=dict(resolution='half')), 'test_cfg.resolution must be'),
        (dict(test_cfg=dict(mode='slide', crop_size=(32, 32))), 'test_cfg.stride must be a positive'),
        (dict(test_cfg=dict(mode='slide', crop_size=(32, 32), stride=(33, 32))), 'leaves gaps'),
    ],
)
def test_wrong_test_cfg(change, message):
    with pytest.raises(ValueError, match=message):
        tiny_model(**change)


def test_a_head_of_another_kind_is_refused():
    cfg = model_cfg()
    cfg['heads']['normals']['output'] = dict(type='mmvmt.ProbabilityOutput')
    with pytest.raises(ValueError, match="task 'normals' puts out 'binary' maps, but the task has 'vectors' maps"):
        MODELS.build(cfg)


def test_an_unknown_task_is_refused():
    cfg = model_cfg()
    cfg['heads']['semantics'] = cfg['heads'].pop('semseg')
    with pytest.raises(ValueError, match="unknown task 'semantics'"):
        MODELS.build(cfg)


def test_tasks_of_backbone_and_heads_must_agree():
    cfg = model_cfg(plugins=[VMT])
    cfg['backbone']['tasks'] = ['semseg']
    with pytest.raises(ValueError, match='differ from the heads'):
        MODELS.build(cfg)


def test_a_checkpoint_without_the_encoder_is_refused():
    model = tiny_model()
    weights = {k: v for k, v in model.state_dict().items() if 'stages' not in k}
    with pytest.raises(ValueError, match=r'is of another encoder than this model: it lacks backbone.stages'):
        model.load_state_dict(weights, strict=False)


def test_a_checkpoint_of_a_deeper_encoder_is_refused():
    plugins = [dict(cfg=dict(type='mmvmt.DecodersOnly'))]
    cfg = model_cfg(plugins=plugins)
    cfg['backbone']['depths'] = (1, 2, 2, 1)
    with pytest.raises(
        ValueError, match=r'is of another encoder than this model: it has besides backbone.stages.2.blocks.1'
    ):
        tiny_model(plugins=plugins).load_state_dict(MODELS.build(cfg).state_dict())


def test_padding_of_the_pipeline_is_cut_off_like_that_of_the_preprocessor():
    model = tiny_model()
    model.data_preprocessor.size_divisor = 64
    expected = model.test_step(batch(sizes=((50, 40),)))[0].pred.normals
    data = batch(sizes=((50, 40),))
    mean = torch.tensor([103.53, 116.28, 123.675]).view(3, 1, 1)
    padded = mean.expand(3, 64, 64).clone()
    padded[:, :50, :40] = data['inputs'][0].float()
    data['inputs'] = [padded]
    data['data_samples'][0].set_metainfo(dict(padding_size=(0, 24, 0, 14), pad_shape=(64, 64)))
    torch.testing.assert_close(model.test_step(data)[0].pred.normals, expected, atol=1e-4, rtol=1e-4)


def test_flipped_samples_are_not_predicted():
    data = batch()
    data['data_samples'][1].set_metainfo(dict(flip=True))
    with pytest.raises(ValueError, match=r"samples \['image_1'\] were flipped"):
        tiny_model().test_step(data)


def test_head_initialisers_run():
    cfg = model_cfg()
    cfg['heads']['semseg']['init_cfg'] = dict(type='Constant', layer='Conv2d', val=0.125)
    model = MODELS.build(cfg)
    model.init_weights()
    assert (model.heads['semseg'].predictor.weight == 0.125).all()
    assert not (model.heads['normals'].predictor.weight == 0.125).any()


def test_samples_without_any_labels_are_named():
    data = batch()
    del data['data_samples'][0].gt
    model = tiny_model()
    with pytest.raises(KeyError, match="sample 'image_0' has no labels for task 'semseg'"):
        model.loss(torch.zeros(2, 3, 64, 64), data['data_samples'])
