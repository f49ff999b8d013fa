"""`make demo`: samepaged at work on three real guests that are there for it alone, and gone after it."""
