"""The ledger of guest pauses, and the drift budget, which limits the drift of guest clocks."""
