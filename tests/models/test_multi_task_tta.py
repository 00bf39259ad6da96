"""Merged predictions, against the same computed step by step from plain predictions."""

import copy

import pytest
import torch
import torch.nn.functional as F
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS
from mmengine.structures import PixelData
from own_folder import TASKS as OWN_TASKS
from own_folder import build_own_folder
from tiny import FOUR_TASKS, tiny_model

from mmvmt.evaluation import MultiTaskEvaluator
from mmvmt.models import MultiTaskTTAModel
from mmvmt.structures import TASKS as TASKS_TABLE
from mmvmt.structures import MultiTaskDataSample

TASKS = (*FOUR_TASKS, 'depth')
SIZE = (48, 64)


@pytest.fixture(scope='module')
def model():
    return tiny_model(TASKS)


def augmented(image, factor, flip=None, img_id='a'):
    """One augmentation of an image, and its sample with labels as the file has them."""
    height, width = (round(edge * factor) for edge in SIZE)
    image = F.interpolate(image[None], size=(height, width), mode='bilinear', align_corners=False)[0]
    dims = dict(horizontal=(2,), vertical=(1,), diagonal=(1, 2)).get(flip)
    meta = dict(img_id=img_id, ori_shape=SIZE, img_shape=(height, width), flip=flip is not None, flip_direction=flip)
    sample = MultiTaskDataSample(metainfo=meta)
    sample.gt = PixelData(saliency=torch.zeros(1, *SIZE))
    return image if dims is None else image.flip(dims), sample


def images(number):
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(3, *SIZE, generator=generator) * 255 for _ in range(number)]


def batch(augmentations, number=2):
    """As TestTimeAug and pseudo_collate give it: lists by augmentation of lists by image."""
    data = dict(inputs=[], data_samples=[])
    for options in augmentations:
        pairs = [augmented(image, *options, img_id=f'image_{i}') for i, image in enumerate(images(number))]
        data['inputs'].append([image for image, _ in pairs])
        data['data_samples'].append([sample for _, sample in pairs])
    return data


AUGMENTATIONS = [(1.0,), (1.0, 'horizontal'), (0.75,), (1.25, 'vertical'), (1.25, 'diagonal')]


def test_the_plain_image_alone_is_predicted_as_without_augmentation(model):
    data = batch([(1.0,)])
    merged = MultiTaskTTAModel(model).test_step(copy.deepcopy(data))
    plain = model.test_step(dict(inputs=data['inputs'][0], data_samples=data['data_samples'][0]))
    for one, other in zip(merged, plain):
        for task in TASKS:
            torch.testing.assert_close(one.pred.get(task), other.pred.get(task), msg=task)


def test_means_over_augmentations_turned_back(model):
    data = batch(AUGMENTATIONS)
    merged = MultiTaskTTAModel(model).test_step(copy.deepcopy(data))
    scores = {task: [] for task in TASKS}
    for (_, *flip), inputs, samples in zip(AUGMENTATIONS, data['inputs'], data['data_samples']):
        ready = model.data_preprocessor(dict(inputs=inputs, data_samples=samples), False)
        for task, logits in model.encode_decode(ready['inputs']).items():
            logits = F.interpolate(logits.float(), ready['inputs'].shape[2:], mode='bilinear', align_corners=False)
            height, width = samples[0].img_shape
            logits = F.interpolate(logits[:, :, :height, :width], SIZE, mode='bilinear', align_corners=False)
            score = {
                'semseg': lambda x: x.softmax(1),
                'human_parts': lambda x: x.softmax(1),
                'saliency': torch.sigmoid,
                'normals': lambda x: F.normalize(x, dim=1),
                'depth': lambda x: x.clamp(min=0),
            }[task](logits)
            for direction in flip:
                if direction in ('horizontal', 'diagonal'):
                    score = score.flip(3)
                    if task == 'normals':
                        score = torch.stack([-score[:, 0], score[:, 1], score[:, 2]], dim=1)
                if direction in ('vertical', 'diagonal'):
                    score = score.flip(2)
                    if task == 'normals':
                        score = torch.stack([score[:, 0], -score[:, 1], score[:, 2]], dim=1)
            scores[task].append(score)
    for index, sample in enumerate(merged):
        assert (sample.img_id, sample.pred.shape) == (f'image_{index}', SIZE)
        assert sample.gt.saliency.shape == (1, *SIZE)
        for task, values in scores.items():
            mean = torch.stack(values).mean(0)[index]
            if task in ('semseg', 'human_parts'):
                # Where two classes are equal to the last digit, either may win.
                assert (sample.pred.get(task) == mean.argmax(0, keepdim=True)).float().mean() > 0.999
            else:
                expected = F.normalize(mean, dim=0) if task == 'normals' else mean
                torch.testing.assert_close(sample.pred.get(task), expected, atol=1e-5, rtol=1e-4, msg=task)


def test_a_mirrored_scene_has_the_mirrored_normals(model):
    """An output that knows the mirror merges to the plain prediction: x of its vectors turns with the picture."""
    output = model.heads['normals'].output
    normals = F.normalize(torch.randn(1, 3, 4, 6), dim=1)
    seen_in_mirror = normals.flip(3) * torch.tensor([-1.0, 1, 1]).view(1, 3, 1, 1)
    assert torch.equal(output.mirror(seen_in_mirror, 'horizontal'), normals)
    merged = output.decide((normals + output.mirror(seen_in_mirror, 'horizontal')) / 2)
    torch.testing.assert_close(merged, normals)


def test_predictions_at_the_size_of_the_input_have_that_of_the_first_augmentation():
    model = tiny_model(('saliency',), test_cfg=dict(resolution='input'))
    (sample, _) = MultiTaskTTAModel(model).test_step(batch([(0.5,), (1.0, 'horizontal')]))
    assert sample.pred.shape == (24, 32)


def test_only_active_tasks_are_merged(model):
    model.set_active_tasks(('saliency',))
    try:
        (sample, _) = MultiTaskTTAModel(model).test_step(batch(AUGMENTATIONS[:2]))
    finally:
        model.set_active_tasks()
    assert list(sample.pred.keys()) == ['saliency']


def test_a_mirrored_first_augmentation_is_refused(model):
    with pytest.raises(ValueError, match=r"the first augmentation of samples \['image_0', 'image_1'\] is mirrored"):
        MultiTaskTTAModel(model).test_step(batch([(1.0, 'horizontal'), (1.0,)]))


def test_a_pipeline_without_augmentations_is_refused(model):
    data = batch([(1.0,)])
    with pytest.raises(TypeError, match=r'tta_pipeline has to end with mmcv\.TestTimeAug'):
        MultiTaskTTAModel(model).test_step({key: values[0] for key, values in data.items()})


MOVING = dict(
    flow=dict(kind='values', channels=2, motion='displacement'),
    disparity=dict(kind='metric', motion='disparity'),
    wind=dict(kind='vectors', channels=2, axes=('right', 'down')),
    heat=dict(kind='values'),
)
TRUTH = dict(flow=(3.0, -2.0), disparity=(4.0,), wind=(0.6, 0.8), heat=(-7.0,))
"""The same at every pixel of the image at its own size."""


def test_what_moves_with_the_picture_is_brought_back(monkeypatch):
    model = tiny_model(MOVING)

    def of_augmentation(inputs, samples):
        """Logits of a model that is right, in the picture as it is shown to it."""
        scale, mirror = samples[0].img_shape[1] / SIZE[1], -1 if samples[0].flip else 1
        shown = dict(
            flow=(3 * scale * mirror, -2 * scale), disparity=(4 * scale,), wind=(0.6 * mirror, 0.8), heat=(-7.0,)
        )
        # As outputs read them: metric values are positive by themselves.
        return {
            task: torch.tensor(values).view(1, -1, 1, 1).expand(len(samples), -1, *inputs.shape[2:])
            for task, values in shown.items()
        }

    monkeypatch.setattr(model, 'full_logits', of_augmentation)
    for sample in MultiTaskTTAModel(model).test_step(batch([(1.0,), (0.75, 'horizontal'), (1.25,)])):
        for task, values in TRUTH.items():
            expected = torch.tensor(values).view(-1, 1, 1).expand(-1, *SIZE)
            torch.testing.assert_close(sample.pred.get(task), expected, msg=task)


def test_images_without_some_labels_pass_through(tmp_path):
    own = build_own_folder(tmp_path / 'own', 4)
    transforms = [
        [dict(type='mmcv.Resize', scale_factor=ratio, keep_ratio=True) for ratio in (0.5, 1.0)],
        [dict(type='mmvmt.MultiTaskRandomFlip', prob=prob) for prob in (0.0, 1.0)],
        [dict(type='mmvmt.LoadMultiTaskAnnotations')],
        [dict(type='mmvmt.PackMultiTaskInputs')],
    ]
    pipeline = [dict(type='mmvmt.LoadMultiTaskImage'), dict(type='mmcv.TestTimeAug', transforms=transforms)]
    dataset = DATASETS.build(own.config(pipeline=pipeline, test_mode=True))
    model = MultiTaskTTAModel(tiny_model(OWN_TASKS))
    evaluator = MultiTaskEvaluator(tasks=OWN_TASKS)
    evaluator.dataset_meta = dataset.metainfo
    for sample in (sample for index in range(4) for sample in model.test_step(pseudo_collate([dataset[index]]))):
        for task, maps in own.maps.items():
            assert sample.pred.get(task).shape[-2:] == sample.gt.get(task).shape[-2:] == (40, 60)
            assert TASKS_TABLE[task].known(sample.gt.get(task)).any() == (sample.img_id in maps)
        evaluator.process([sample])
    figures = evaluator.evaluate(4)
    assert {key.split('/')[0] for key in figures} >= set(OWN_TASKS)
