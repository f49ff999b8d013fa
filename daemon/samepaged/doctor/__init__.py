"""The checks of `samepaged doctor`. Each check is a function from the observed state to a `Check`."""
