"""`python -m tests.support.faults`. The program stands in a module of its own, which its processes can import."""

import sys

from tests.support.faults.program import main

if __name__ == "__main__":
    sys.exit(main())
