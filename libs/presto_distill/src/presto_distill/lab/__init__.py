"""What notebooks share: typed parameters, studies, figures, results, the runner and the report."""
