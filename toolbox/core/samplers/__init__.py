"""What goes into a batch."""
