"""Complete configurations of runs, as frozen dataclasses and functions; imports nothing else of ``training``."""
