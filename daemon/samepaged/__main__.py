"""`python -m samepaged`."""

import sys

from samepaged.cli import main

sys.exit(main())
