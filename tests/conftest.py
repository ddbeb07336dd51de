"""One thread: the tests' networks are so small that a second one only waits; and results do not depend on the machine."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
