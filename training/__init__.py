"""Trains the zoo's methods; imports ``zoo``, which never imports ``training``."""
