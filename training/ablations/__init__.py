"""The papers' ablations as grids of runs, with tables and figures; trains and scores through the folders below."""
