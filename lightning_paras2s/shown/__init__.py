"""What each command prints for a person: a screen a command."""
