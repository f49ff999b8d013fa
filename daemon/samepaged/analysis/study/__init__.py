"""Studies of traces as in the paper: self-sharing, pairs, groups, page sizes, platforms, time, zero pages.

`study` is the whole study and `comparison` compares two sets of traces. The numbers come from `self_sharing`, `pairs`,
`groups`, `stability` and `labels`, over the `guests` and the traces that `sampling` selects and `hash_reader` reads.
`document`, `tables`, `figures` and `report` format them. Figures and drawing require matplotlib, and are imported only
on demand.
"""
