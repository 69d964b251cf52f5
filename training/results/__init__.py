"""What comes out of a run: the exported encoder, its summary and its curves; reads finished runs and never trains."""
