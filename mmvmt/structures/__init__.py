from .map_files import encode_map, save_predictions
from .multi_task_data_sample import MultiTaskDataSample
from .palettes import HUMAN_PARTS_PALETTE, voc_palette
from .tasks import IGNORE_INDEX, TASKS, Task, check_tasks

__all__ = [
    'HUMAN_PARTS_PALETTE',
    'IGNORE_INDEX',
    'TASKS',
    'MultiTaskDataSample',
    'Task',
    'check_tasks',
    'encode_map',
    'save_predictions',
    'voc_palette',
]
