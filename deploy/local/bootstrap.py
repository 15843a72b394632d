"""The first thing that `make` runs: see to it that this Python will do, and hand on.

Any Python since 2.7 must be able to parse this file, so there is nothing else in it.
"""

import os
import runpy
import sys

if sys.version_info < (3, 11):  # noqa: UP036 - this is where it is made sure
    sys.exit(
        "Python 3.11 or newer is needed, and this is {}.{}; "
        "name another one: make PYTHON=python3.11 ...".format(*sys.version_info)
    )
here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - 2.7 has no pathlib
runpy.run_path(os.path.join(here, "environment.py"), run_name="__main__")  # noqa: PTH118
