from .classes import declared_classes, names_key, with_classes
from .map_files import encode_map, save_predictions
from .multi_task_data_sample import MultiTaskDataSample
from .normals_axes import NormalsAxes, warn_of_other_axes
from .palettes import HUMAN_PARTS_PALETTE, voc_palette
from .tasks import IGNORE_INDEX, TASKS, Task, check_tasks
from .text_files import read_json, read_text

__all__ = [
    'HUMAN_PARTS_PALETTE',
    'IGNORE_INDEX',
    'TASKS',
    'MultiTaskDataSample',
    'NormalsAxes',
    'Task',
    'check_tasks',
    'declared_classes',
    'encode_map',
    'names_key',
    'read_json',
    'read_text',
    'save_predictions',
    'voc_palette',
    'warn_of_other_axes',
    'with_classes',
]
