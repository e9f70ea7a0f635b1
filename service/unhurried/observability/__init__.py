"""What people and machines see of the daemon: its log, its health, its numbers."""
