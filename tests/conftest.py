import sys
from pathlib import Path

# Helpers shared by test modules, such as distributed.run_ranks, are imported from this folder.
sys.path.insert(0, str(Path(__file__).parent))
