"""What a script does with its process: signals, console, memory, devices."""
