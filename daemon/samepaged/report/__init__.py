"""Output for people and programs: tables, JSON, advice."""
