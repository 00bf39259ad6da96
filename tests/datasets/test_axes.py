from collections import Counter

import numpy as np
import pytest

from mmvmt.datasets.axes import axes_evidence, contradictions, estimate_axes
from mmvmt.datasets.formats import normals_validity
from mmvmt.structures import NormalsAxes
from mmvmt.synthetic import render_scene


@pytest.fixture(scope='module')
def scenes():
    """Normals and classes of rendered scenes; normals as they are after loading, where they are valid."""
    samples = [render_scene((5, index), 64) for index in range(60)]
    return [(s.normals * normals_validity(s.label_map)[..., None], s.semseg) for s in samples]


@pytest.mark.parametrize('x', ['left', 'right'])
@pytest.mark.parametrize('y', ['up', 'down'])
def test_axes_of_rendered_scenes(scenes, x, y):
    axes, evidence = NormalsAxes(x, y), Counter()
    for normals, semseg in scenes:
        evidence.update(axes_evidence(NormalsAxes().convert(normals, axes), semseg))
    assert estimate_axes(evidence) == axes.meta
    assert contradictions(evidence, axes) == {}
    assert contradictions(evidence, NormalsAxes('left', 'down')) == {
        key: value for key, value in axes.meta.items() if value != dict(normals_x='left', normals_y='down')[key]
    }


def test_noise_says_nothing():
    rng, evidence = np.random.default_rng(0), Counter()
    for _ in range(40):
        normals = rng.normal(size=(40, 60, 3)).astype(np.float32)
        evidence.update(axes_evidence(normals, np.ones((40, 60), np.uint8)))
    assert evidence['n_x'] == 40
    assert estimate_axes(evidence) == {}


def test_a_few_objects_say_nothing(scenes):
    assert estimate_axes(axes_evidence(*scenes[0])) == {}
    assert estimate_axes(Counter()) == {}


def test_what_is_unknown_is_left_out():
    normals = np.zeros((40, 60, 3), np.float32)
    assert axes_evidence(normals, np.ones((40, 60), np.uint8)) == {}
    normals[..., 2] = 1
    assert axes_evidence(normals, np.full((40, 60), 255, np.uint8)) == {}
    evidence = axes_evidence(normals, np.zeros((40, 60), np.uint8))
    assert set(evidence) == {'n_y', 'y', 'yy'}, 'a floor is seen, but no object'
