"""Lets ``python -m DISYRECore`` stand for the command ``disyre``."""

import sys

from DISYRECore.apps.cli import main

sys.exit(main())
