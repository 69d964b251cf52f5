"""Labelled images from any source behind one interface; reads files, never downloads and never runs a network."""
