"""Files written whole or not at all, kept lines of JSON, and an account of what visitors keep in memory."""
