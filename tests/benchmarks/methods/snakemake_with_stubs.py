"""``snakemake ARGUMENTS`` whose rules run ``$STUB`` instead of this Python."""

import os
import sys

from snakemake.cli import main

sys.executable = os.environ['STUB']
main(sys.argv[1:])
