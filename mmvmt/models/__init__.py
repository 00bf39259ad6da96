from mmvmt.compat import operators

# ruff: noqa: E402  mmseg imports the operators unguarded: what explains their absence has to come first
operators('mmseg.models')

from .attribute_classifier import AttributeClassifier
from .backbones import AdaptedBackbone, AdaptedEncoder, AdaptedSwin, Columnar, Layout, register_layout
from .data_preprocessor import MultiTaskDataPreProcessor
from .losses import (
    DynamicWeightAverage,
    FixedWeights,
    HuberPixelLoss,
    L1PixelLoss,
    L2PixelLoss,
    PixelLoss,
    TaskWeights,
    UncertaintyWeights,
    WeightedBCELoss,
)
from .multi_task_encoder_decoder import MultiTaskEncoderDecoder
from .multi_task_tta import MultiTaskTTAModel
from .parameter_groups import GROUPS, parameter_groups
from .task_heads import (
    ClassesOutput,
    DeformableHead,
    DepthOutput,
    HighResolutionHead,
    MLPHead,
    ProbabilityOutput,
    SegmentorHead,
    TaskHead,
    UnitVectorOutput,
    ValuesOutput,
)

__all__ = [
    'GROUPS',
    'AdaptedBackbone',
    'AdaptedEncoder',
    'AdaptedSwin',
    'AttributeClassifier',
    'ClassesOutput',
    'Columnar',
    'DeformableHead',
    'DepthOutput',
    'DynamicWeightAverage',
    'FixedWeights',
    'HighResolutionHead',
    'HuberPixelLoss',
    'L1PixelLoss',
    'L2PixelLoss',
    'Layout',
    'MLPHead',
    'MultiTaskDataPreProcessor',
    'MultiTaskEncoderDecoder',
    'MultiTaskTTAModel',
    'PixelLoss',
    'ProbabilityOutput',
    'SegmentorHead',
    'TaskHead',
    'TaskWeights',
    'UncertaintyWeights',
    'UnitVectorOutput',
    'ValuesOutput',
    'WeightedBCELoss',
    'parameter_groups',
    'register_layout',
]
