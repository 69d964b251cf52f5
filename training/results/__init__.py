"""The results of a run: exported encoder, summary and curves; reads a run's folder and never trains."""
