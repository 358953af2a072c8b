"""What has nothing to do with learning: whole-file writes, memory, signals, hosts, compiled programs, progress."""
