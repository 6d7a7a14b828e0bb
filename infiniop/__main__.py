"""`python -m infiniop`."""

import sys

from infiniop.cli import main

sys.exit(main())
