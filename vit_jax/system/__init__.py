"""The process and its machine: whole-file writes, memory, signals, hosts, compiled programs, progress."""
