"""Traces studied as the paper studied its own: self-sharing, pairs, groups, page sizes, platforms, time, zero pages.

`whole` is the study and `comparison` that of two sets; the numbers come from `own`, `pairs`, `groups`, `stability` and
`labels`, over the `guests` and their traces that `draws` chooses and `reading` reads. `document`, `tables`, `figures`
and `report` show it. Figures, and what draws them, need matplotlib, and are imported only where they are wanted.
"""
