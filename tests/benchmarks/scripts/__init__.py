"""Small programs that the benchmarks start: peers in their own interpreter, and the feeders of the
latency measure.

Third-party modules are looked up with import_module: a type checker need not know them, nor the project
depend on them.
"""
