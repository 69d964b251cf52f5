"""The commands of ``zoo``: arguments and printing only. A command imports its work when it runs, so help is instant."""
