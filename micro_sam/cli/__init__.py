"""The commands. A command checks all it can before it imports anything heavy; `runner` turns errors into one line."""
