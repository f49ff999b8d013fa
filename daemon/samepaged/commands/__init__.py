"""samepaged's commands, one a file. Each module has a class `Command`."""
