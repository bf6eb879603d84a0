"""Questions and conversations to learn from and to be graded on. Start at task.py."""
