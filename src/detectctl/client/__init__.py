"""The other side of the wire: asking a service about images."""
