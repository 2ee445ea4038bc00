"""What Presto is compared with: each an objective, or a config of one, with its source named."""
