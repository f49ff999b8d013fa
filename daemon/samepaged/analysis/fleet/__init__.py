"""Fleet analysis of the traces of many hosts: contents that hosts have in common, and better placement of guests."""
