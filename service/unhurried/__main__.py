"""``python -m unhurried``: the same as the console script."""

import sys

from unhurried.cli import main

sys.exit(main())
