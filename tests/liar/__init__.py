"""The spool and the worker on a file system that lies (liar.c): it does what it is told, and says that it didn't."""
