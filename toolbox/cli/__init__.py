"""The console command: one module a sub-command, each with `main(argv) -> exit code`."""
