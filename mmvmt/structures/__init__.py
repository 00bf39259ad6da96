from .map_files import encode_map, save_predictions
from .multi_task_data_sample import MultiTaskDataSample
from .tasks import IGNORE_INDEX, TASKS, Task, check_tasks

__all__ = ['IGNORE_INDEX', 'TASKS', 'MultiTaskDataSample', 'Task', 'check_tasks', 'encode_map', 'save_predictions']
