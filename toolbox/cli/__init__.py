"""What tools/ calls: one module a command, each with `main(argv) -> exit code`."""
