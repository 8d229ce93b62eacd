"""`python -m speechprompt` is the command `speechprompt`."""

import sys

from speechprompt.cli import main

sys.exit(main())
