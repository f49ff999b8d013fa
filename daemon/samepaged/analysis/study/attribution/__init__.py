"""Page attribution over the traces of a study: figures 11 and 12 of the paper."""
