"""The 459 classes of PASCAL-Context, and which of them carry valid surface normals."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

_CLASSES_FILE = Path(__file__).with_name('pascal_context_classes.json')


@lru_cache(maxsize=1)
def _class_lists() -> dict:
    return json.loads(_CLASSES_FILE.read_text(encoding='utf-8'))


def pascal_context_classes() -> dict[str, int]:
    """Ids (1 to 459) of the classes in ``pascal-context/trainval/ID.mat`` by class name.

    Returns:
        dict[str, int]: A fresh copy, ordered by id.
    """
    return dict(_class_lists()['context_classes'])


@lru_cache(maxsize=1)
def normals_valid_ids() -> frozenset[int]:
    """Ids of the 170 classes on whose pixels the distilled surface normals are valid.

    They are the classes whose names also occur in NYUD-v2's list, plus ``tvmonitor``; elsewhere the normals are
    unknown.
    """
    return frozenset(_class_lists()['normals_valid_ids'])
