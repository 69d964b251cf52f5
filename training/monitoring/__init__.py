"""Measurements and logs of a run in progress; reads networks and data, and changes neither."""
