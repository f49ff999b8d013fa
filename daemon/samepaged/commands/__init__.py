"""samepaged's commands, one per module. Each module has a class `Command`."""
