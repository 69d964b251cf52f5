"""The training loop and its parts (optimisers, schedules, checkpoints, checks); draws nothing and exports nothing."""
