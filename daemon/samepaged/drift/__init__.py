"""How long each guest was suspended: the ledger of pauses, and the budget that bounds the drift of guest clocks."""
