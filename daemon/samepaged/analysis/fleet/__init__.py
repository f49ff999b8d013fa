"""What the traces of many hosts say together: contents that hosts have in common, and where guests had better be."""
