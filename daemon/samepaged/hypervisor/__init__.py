"""libvirt: the connection, the guests, and suspending them."""
