"""The tests' networks are so small that a second thread only waits; and results must not depend on the machine."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
