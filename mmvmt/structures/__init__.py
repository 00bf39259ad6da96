from .classes import declared_classes, names_key, task_metainfo, with_classes
from .map_files import encode_map, save_predictions
from .multi_task_data_sample import MultiTaskDataSample
from .normals_axes import NormalsAxes, warn_of_other_axes
from .palettes import HUMAN_PARTS_PALETTE, voc_palette
from .task import IGNORE_INDEX, WIDE_IGNORE_INDEX, Task
from .tasks import (
    TASKS,
    TaskDeclarations,
    check_tasks,
    declarations,
    declare_tasks,
    meet_declarations,
    register_task,
)
from .text_files import read_json, read_text

__all__ = [
    'HUMAN_PARTS_PALETTE',
    'IGNORE_INDEX',
    'TASKS',
    'WIDE_IGNORE_INDEX',
    'MultiTaskDataSample',
    'NormalsAxes',
    'Task',
    'TaskDeclarations',
    'check_tasks',
    'declarations',
    'declare_tasks',
    'declared_classes',
    'encode_map',
    'meet_declarations',
    'names_key',
    'read_json',
    'read_text',
    'register_task',
    'save_predictions',
    'task_metainfo',
    'voc_palette',
    'warn_of_other_axes',
    'with_classes',
]
