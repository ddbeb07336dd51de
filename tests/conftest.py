"""One thread: the networks here are so small that a second only waits, and results must not depend on the machine."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
