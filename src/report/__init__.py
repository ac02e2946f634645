"""What a person reads about a prediction and about runs: figures, tables, report.html."""
