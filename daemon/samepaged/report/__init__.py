"""What samepaged shows: metrics, JSON, tables."""
