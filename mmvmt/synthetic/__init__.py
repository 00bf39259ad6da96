from .render import ATTRIBUTES, ObjectMask, Sample, render_attributes, render_object, render_scene
from .writer import Report, write_classification, write_pascal_mt

__all__ = [
    'ATTRIBUTES',
    'ObjectMask',
    'Report',
    'Sample',
    'render_attributes',
    'render_object',
    'render_scene',
    'write_classification',
    'write_pascal_mt',
]
