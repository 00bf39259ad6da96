from .render import ObjectMask, Sample, render_object, render_scene
from .writer import Report, write_classification, write_pascal_mt

__all__ = [
    'ObjectMask',
    'Report',
    'Sample',
    'render_object',
    'render_scene',
    'write_classification',
    'write_pascal_mt',
]
