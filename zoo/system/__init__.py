"""Use the machine: files, memory, threads and the terminal; nothing here knows of images or models."""
