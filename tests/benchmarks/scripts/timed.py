"""Print how many seconds a command takes; fail as it fails. Its own output is thrown away."""

import subprocess
import sys
import time

begin = time.perf_counter()
code = subprocess.call(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
print(time.perf_counter() - begin)
sys.exit(code)
