"""The span reader: finds the answer's exact words in passages."""
