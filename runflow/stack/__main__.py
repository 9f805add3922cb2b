"""Makes `python -m runflow.stack` work."""

import sys

from runflow.stack.cli import main

sys.exit(main())
