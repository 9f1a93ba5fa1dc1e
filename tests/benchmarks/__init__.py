"""Benchmarks of queuectl beside its peers: `python -m tests.benchmarks [NAME...]`.

driver.py says what a driver must offer; shell_peers.py, python_peers.py and queuectl_driver.py are the
drivers. harness.py owns processes and directories, sampling.py decides which samples count, measures.py
and volume.py say what is measured, report.py and plot.py show it. A run leaves neither processes nor
directories behind.
"""
