"""`python -m seggen_core` is the `seggen` command."""

import sys

from seggen_core.cli import main

sys.exit(main())
