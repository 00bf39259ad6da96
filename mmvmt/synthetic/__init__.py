from .render import ATTRIBUTES, ObjectMask, Sample, render_attributes, render_scene
from .writer import Report, write_pascal_mt

__all__ = [
    'ATTRIBUTES',
    'ObjectMask',
    'Report',
    'Sample',
    'render_attributes',
    'render_scene',
    'write_pascal_mt',
]
