"""Memory images in files: raw, ELF cores, LiME."""
