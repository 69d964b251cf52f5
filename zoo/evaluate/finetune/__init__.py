"""zoo/evaluate/finetune."""
