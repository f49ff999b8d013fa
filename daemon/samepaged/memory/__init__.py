"""Page hashes of a guest's RAM: its location, the residency of its pages, and the readers."""
