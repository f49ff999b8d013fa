"""What `samepaged doctor` looks at: each check a function from what was found out to what it means."""
