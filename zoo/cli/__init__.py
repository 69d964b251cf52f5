"""What ``zoo`` can do: arguments only; each command imports what it needs, so that help and list are instant."""
