"""What each command does, as functions: the rooms put together."""
