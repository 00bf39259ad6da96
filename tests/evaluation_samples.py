"""Random samples for the tests of the metrics, as dictionaries, the way an evaluator hands them over."""

from __future__ import annotations

import numpy as np
import torch

NUM_CLASSES = {'semseg': 5, 'human_parts': 7}


def unit_vectors(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return random unit vectors, ``(3, height, width)`` float32."""
    vectors = rng.normal(size=(3, height, width))
    return (vectors / np.linalg.norm(vectors, axis=0)).astype(np.float32)


def random_maps(rng: np.random.Generator, task: str, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return prediction and truth of one image, with unknown pixels in the truth."""
    shape = (1, height, width)
    unknown = rng.random(shape) < 0.2
    if task in NUM_CLASSES:
        gt = rng.integers(0, NUM_CLASSES[task], shape).astype(np.uint8)
        pred = np.where(rng.random(shape) < 0.5, gt, rng.integers(0, NUM_CLASSES[task], shape)).astype(np.uint8)
        return pred, np.where(unknown, 255, gt).astype(np.uint8)
    if task in ('saliency', 'edge'):
        gt = (rng.random(shape) < rng.random()).astype(np.uint8)
        pred = np.clip(0.6 * gt + rng.normal(0.2, 0.3, shape), 0, 1).astype(np.float32)
        return pred, np.where(unknown, 255, gt).astype(np.uint8)
    if task == 'normals':
        gt = unit_vectors(rng, height, width)
        pred = gt + 0.5 * rng.normal(size=gt.shape)
        pred = (pred / np.linalg.norm(pred, axis=0)).astype(np.float32)
        return pred, np.where(unknown, 0, gt).astype(np.float32)
    if task == 'flow':
        gt = rng.normal(size=(2, height, width)).astype(np.float32)
        return gt + rng.normal(size=gt.shape).astype(np.float32), np.where(unknown, np.float32('nan'), gt)
    gt = rng.uniform(0.5, 10, shape)
    pred = (gt * rng.uniform(0.5, 1.8, shape)).astype(np.float32)
    return pred, np.where(unknown, 0, gt).astype(np.float32)


def make_sample(img_id: str, maps: dict[str, tuple[np.ndarray, np.ndarray]]) -> dict:
    """Return the dictionary of one image from ``{task: (prediction, truth)}``."""
    shape = next(iter(maps.values()))[1].shape[-2:]
    return {
        'img_id': img_id,
        'ori_shape': shape,
        'img_shape': shape,
        'pred': {task: torch.from_numpy(pred) for task, (pred, _) in maps.items()},
        'gt': {task: torch.from_numpy(gt) for task, (_, gt) in maps.items()},
    }


def random_samples(tasks: tuple[str, ...], num_samples: int, seed: int = 0) -> list[dict]:
    """Return samples of different sizes; sample number i is the same whatever ``num_samples``."""
    samples = []
    for index in range(num_samples):
        rng = np.random.default_rng([seed, index])
        height, width = (int(side) for side in rng.integers(7, 20, 2))
        samples.append(make_sample(f'image_{index}', {task: random_maps(rng, task, height, width) for task in tasks}))
    return samples


def pairs(samples: list[dict], task: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return ``(prediction, truth)`` of one task as arrays."""
    return [(sample['pred'][task].numpy(), sample['gt'][task].numpy()) for sample in samples]


def score(metric, samples: list[dict], batch_size: int = 1) -> dict[str, float]:
    """Feed samples to a metric in batches and evaluate."""
    for start in range(0, len(samples), batch_size):
        metric.process(None, samples[start : start + batch_size])
    return metric.evaluate(len(samples))
