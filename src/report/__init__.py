"""What a person reads of a prediction and of runs: figures, tables, report.html."""
